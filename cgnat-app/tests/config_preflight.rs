//! A machine made of files: what is missing on it is said in one clear line each.
//!
//! Paths of captures are absolute here; `{d}` stands for the directory of the test.

use std::fs;
use std::path::Path;

use cgnat_app::preflight::{CaptureSummary, Preflight, preflight, preflight_with};
use cgnat_core::config::Config;
use tempfile::TempDir;

/// Root and CAP_NET_RAW, two CPUs, a gigabyte of huge pages.
fn machine() -> TempDir {
    let root = tempfile::tempdir().expect("a directory");
    put(&root, "proc/self/status", "CapEff:\t0000000000003000\nCpus_allowed_list:\t0-1\n");
    put(&root, "sys/devices/system/cpu/online", "0-3\n");
    put(&root, "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "512\n");
    for name in ["eth1", "eth2"] {
        put(&root, &format!("sys/class/net/{name}/flags"), "0x1003\n");
        put(&root, &format!("sys/class/net/{name}/mtu"), "1500\n");
    }
    for name in ["in", "out"] {
        fs::write(root.path().join(format!("{name}.pcap")), capture(3)).expect("writable");
    }
    root
}

fn put(root: &TempDir, path: &str, text: &str) {
    let path = root.path().join(path);
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    fs::write(path, text).expect("writable");
}

/// A little-endian pcap of Ethernet frames of 60 bytes, one each second from 1000.5 s.
fn capture(packets: u32) -> Vec<u8> {
    let mut bytes = header(1);
    for i in 0..packets {
        record(&mut bytes, 1000 + i, 60, 60);
    }
    bytes
}

fn header(link_type: u32) -> Vec<u8> {
    let words = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, link_type];
    words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect()
}

fn record(bytes: &mut Vec<u8>, seconds: u32, captured: u32, original: u32) {
    for word in [seconds, 500_000, captured, original] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(vec![0; captured as usize]);
}

fn config(internal: &str, external: &str, more: &str) -> Config {
    let text = format!(
        "version: 1\nports:\n  internal0:\n    side: internal\n    device: \"{internal}\"\n    \
         addresses: [10.255.0.2/30]\n    next-hop: 10.255.0.1\n  external0:\n    side: external\n    \
         device: \"{external}\"\n    addresses: [192.0.2.2/30]\n    next-hop: 192.0.2.1\n\
         pools: {{ main: {{ addresses: [203.0.113.0/28] }} }}\nsubscribers:\n  \
         - {{ name: all, match: [100.64.0.0/10], pool: main }}\n{more}"
    );
    Config::from_yaml("t.yaml", &text).unwrap_or_else(|problems| panic!("{problems}"))
}

const PCAP0: &str = "net_pcap0,rx_pcap={d}/in.pcap,tx_pcap={d}/in-out.pcap";
const PCAP1: &str = "net_pcap1,rx_pcap={d}/out.pcap,tx_pcap={d}/out-out.pcap";

fn look(root: &TempDir, internal: &str, external: &str, more: &str) -> Preflight {
    let directory = root.path().to_str().expect("UTF-8");
    let device = |text: &str| text.replace("{d}", directory);
    preflight(&config(&device(internal), &device(external), more), root.path())
}

/// What is said, with the directory of the test as `{d}`.
fn said(root: &TempDir, internal: &str, external: &str, more: &str) -> Vec<String> {
    let directory = root.path().to_str().expect("UTF-8");
    let here = look(root, internal, external, more);
    here.findings.iter().map(|finding| finding.to_string().replace(directory, "{d}")).collect()
}

#[test]
fn a_machine_with_everything_has_no_findings_and_captures_are_counted() {
    let root = machine();
    let here = look(&root, PCAP0, PCAP1, "");
    assert_eq!(here.findings, []);
    assert_eq!(here.exit_code(), None);
    let summary = CaptureSummary {
        packets: 3,
        bytes: 180,
        first_ns: 1_000_500_000_000,
        last_ns: 1_002_500_000_000,
        cut: 0,
    };
    assert_eq!(here.captures, [(0, summary), (1, summary)]);
    let left = fs::read_dir(root.path()).expect("a directory").count();
    assert_eq!(left, 4, "trying the output directory left something behind");
    assert_eq!(said(&root, "net_af_packet0,iface=eth1", "net_af_packet1,iface=eth2", ""), [""; 0]);
}

#[test]
fn an_interface_that_joins_frames_is_warned_of_with_the_command_that_helps() {
    let root = machine();
    let config = config("net_af_packet0,iface=eth1", "net_af_packet1,iface=eth2", "");
    let features = |interface: &str| {
        let on: &[&str] = match interface {
            "eth1" => &["rx-checksum", "rx-gro", "tx-generic-segmentation", "rx-lro"],
            _ => &["tx-tcp-segmentation"],
        };
        on.iter().map(ToString::to_string).collect()
    };
    let here = preflight_with(&config, root.path(), &features);
    let said: Vec<_> = here.findings.iter().map(ToString::to_string).collect();
    let expected = "warning: port internal0: interface eth1 joins frames before they are received \
                    (rx-gro, rx-lro): what comes out is longer than its `mtu`, and lost; ethtool -K \
                    eth1 gro off lro off";
    assert_eq!(said, [expected]);
    assert_eq!(here.exit_code(), None);
}

#[test]
fn a_card_that_may_filter_the_groups_of_neighbour_discovery_is_warned_of() {
    let root = machine();
    let said = |flags: &str| {
        put(&root, "sys/class/net/eth1/flags", flags);
        let text = "net_af_packet1,iface=eth2\"\n    ipv6: { addresses: [\"2001:db8:b::2/64\"], \
                    next-hop: \"fe80::1\" }\n    mtu: \"1500";
        let internal = text.replace("af_packet1,iface=eth2", "af_packet0,iface=eth1");
        let internal = internal.replace(", next-hop: \"fe80::1\"", "").replace("db8:b", "db8:a");
        let config = config(&internal, text, "");
        let here = preflight_with(&config, root.path(), &|_| Vec::new());
        here.findings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    // A veth has no device behind it, and no filter.
    assert_eq!(said("0x1003\n"), [""; 0]);
    put(&root, "sys/class/net/eth1/device/vendor", "0x8086\n");
    let expected = "warning: port internal0: interface eth1 may filter the groups of Neighbour \
                    Discovery, so that neighbours do not find this box by IPv6; ip link set eth1 \
                    allmulticast on";
    assert_eq!(said("0x1003\n"), [expected]);
    for open in ["0x1103\n", "0x1203\n"] {
        assert_eq!(said(open), [""; 0], "{open}");
    }
}

#[test]
fn a_capture_that_cannot_be_replayed_is_an_error() {
    let root = machine();
    let mut truncated = capture(5);
    truncated.truncate(24 + 3 * 76 + 20);
    let mut cut = header(1);
    record(&mut cut, 1, 60, 1500);
    record(&mut cut, 2, 60, 60);
    for (content, expected) in [
        (None, "error: port internal0: rx_pcap {d}/in.pcap is missing; expected a pcap file"),
        (
            Some(truncated),
            "error: port internal0: rx_pcap {d}/in.pcap is truncated: it ends inside packet 4; \
             capture it again, or keep the packets before it with editcap -r FILE NEW 1-3",
        ),
        (
            Some(b"version: 1\nports: {}\n and so on".to_vec()),
            "error: port internal0: rx_pcap {d}/in.pcap is not a capture; expected a pcap file as \
             tcpdump -w writes it",
        ),
        (
            Some(Vec::new()),
            "error: port internal0: rx_pcap {d}/in.pcap is not a capture; expected a pcap file as \
             tcpdump -w writes it",
        ),
        (
            Some(vec![0x0a, 0x0d, 0x0d, 0x0a, 0, 0, 0, 0]),
            "error: port internal0: rx_pcap {d}/in.pcap is a pcapng file; convert it with editcap \
             -F pcap FILE NEW",
        ),
        (
            Some(header(101)),
            "error: port internal0: rx_pcap {d}/in.pcap is not a capture of Ethernet frames (link \
             type 101); expected 1",
        ),
        (Some(header(1)), "warning: port internal0: rx_pcap {d}/in.pcap holds no packets"),
        (
            Some(cut),
            "warning: port internal0: rx_pcap {d}/in.pcap holds only the beginning of 1 of its 2 \
             packets; capture whole packets with tcpdump -s 0",
        ),
    ] {
        let path = root.path().join("in.pcap");
        match content {
            Some(content) => fs::write(path, content).expect("writable"),
            None => fs::remove_file(path).expect("removable"),
        }
        assert_eq!(said(&root, PCAP0, PCAP1, ""), [expected]);
    }
    fs::remove_file(root.path().join("in.pcap")).expect("removable");
    fs::create_dir(root.path().join("in.pcap")).expect("a directory");
    let expected =
        "error: port internal0: rx_pcap {d}/in.pcap is a directory; expected a pcap file";
    assert_eq!(said(&root, PCAP0, PCAP1, ""), [expected]);
    assert_eq!(look(&root, PCAP0, PCAP1, "").exit_code(), Some(1));
}

#[test]
fn an_output_must_have_a_directory_and_must_not_hit_another_file() {
    let root = machine();
    let none = "net_pcap0,rx_pcap={d}/in.pcap,tx_pcap={d}/none/in-out.pcap";
    assert_eq!(
        said(&root, none, PCAP1, ""),
        ["error: port internal0: there is no directory for tx_pcap {d}/none/in-out.pcap; mkdir \
             -p {d}/none"]
    );
    let own = "net_pcap0,rx_pcap={d}/in.pcap,tx_pcap={d}/./in.pcap";
    assert_eq!(
        said(&root, own, PCAP1, ""),
        ["error: port internal0: tx_pcap {d}/./in.pcap is the rx_pcap of port internal0; it \
             would be lost"]
    );
    let other = "net_pcap1,rx_pcap={d}/out.pcap,tx_pcap={d}/in-out.pcap";
    assert_eq!(
        said(&root, PCAP0, other, ""),
        ["error: port external0: tx_pcap {d}/in-out.pcap is the tx_pcap of port internal0 too"]
    );
    fs::create_dir(root.path().join("in-out.pcap")).expect("a directory");
    let found = said(&root, PCAP0, PCAP1, "");
    assert!(found.len() == 1 && found[0].contains("cannot be written"), "{found:?}");
}

#[test]
fn an_interface_must_be_there_and_up_and_used_once() {
    let root = machine();
    put(&root, "sys/class/net/eth2/flags", "0x1002\n");
    put(&root, "sys/class/net/eth2/mtu", "1400\n");
    let eth = |name: &str| format!("net_af_packet1,iface={name}");
    let look = |name: &str| said(&root, "net_af_packet0,iface=eth1", &eth(name), "");
    assert_eq!(
        look("eth9"),
        ["error: port external0: there is no interface eth9; ip -br link lists them"]
    );
    assert_eq!(
        look("eth2"),
        [
            "error: port external0: interface eth2 is down; ip link set eth2 up",
            "warning: port external0: interface eth2 has MTU 1400, the port 1500: longer packets \
             are lost; ip link set eth2 mtu 1500, or lower `mtu`",
        ]
    );
    assert_eq!(
        look("eth1"),
        ["error: port external0: interface eth1 is in use by port internal0; expected another"]
    );
    assert_eq!(
        look("../../x"),
        ["error: port external0: `../../x` cannot be the name of an interface"]
    );
}

#[test]
fn an_interface_that_ports_share_must_be_large_enough_for_the_tags_of_each() {
    let root = machine();
    let config = Config::from_yaml(
        "t.yaml",
        "version: 1
ports:
  in: { side: internal, device: \"net_af_packet0,iface=eth1\", vlan: 7, addresses: [10.255.0.2/30], next-hop: 10.255.0.1 }
  out: { side: external, device: \"net_af_packet0,iface=eth1\", vlan: 7, outer-vlan: 7, addresses: [192.0.2.2/30], next-hop: 192.0.2.1 }
pools: { main: { addresses: [203.0.113.0/28] } }
subscribers: [{ name: all, match: [100.64.0.0/10], pool: main }]
",
    );
    let config = config.unwrap_or_else(|problems| panic!("{problems}"));
    let said = || -> Vec<String> {
        preflight(&config, root.path()).findings.iter().map(ToString::to_string).collect()
    };
    let expected = |is| {
        format!(
            "warning: port out: interface eth1 has MTU {is}, the port 1500 and 8 bytes of tags: \
             longer packets are lost; ip link set eth1 mtu 1508, or lower `mtu`"
        )
    };
    assert_eq!(said(), [expected(1500)]);
    put(&root, "sys/class/net/eth1/mtu", "1507\n");
    assert_eq!(said(), [expected(1507)]);
    put(&root, "sys/class/net/eth1/mtu", "1508\n");
    assert_eq!(said(), [""; 0]);
}

#[test]
fn raw_packets_need_a_permission_and_its_own_exit_code() {
    let root = machine();
    put(&root, "proc/self/status", "CapEff:\t0000000000000000\nCpus_allowed_list:\t0-1\n");
    let expected = "error: port internal0: net_af_packet needs CAP_NET_RAW and CAP_NET_ADMIN; run as root, or: \
                    setcap cap_net_raw,cap_net_admin+ep \"$(command -v cgnat)\"";
    assert_eq!(said(&root, "net_af_packet0,iface=eth1", PCAP1, ""), [expected]);
    assert_eq!(look(&root, "net_af_packet0,iface=eth1", PCAP1, "").exit_code(), Some(77));
    let found = said(&root, "net_tap0", PCAP1, "");
    assert!(found.len() == 1 && found[0].contains("net_tap needs CAP_NET_ADMIN"), "{found:?}");
    assert_eq!(said(&root, "net_null0", PCAP1, ""), [""; 0]);
    // With anything else missing too, a permission alone would not help.
    let look = look(&root, "net_af_packet0,iface=eth9", PCAP1, "");
    assert_eq!((look.errors(), look.exit_code()), (2, Some(1)));
}

/// Two nodes with a CPU each; the card is on the second.
#[test]
fn cards_and_workers_on_different_nodes_and_nodes_without_memory_are_warned_of() {
    let root = machine();
    for (node, cpus, pages) in [(0, "0\n", "512\n"), (1, "1,3\n", "0\n")] {
        let node = format!("sys/devices/system/node/node{node}");
        put(&root, &format!("{node}/cpulist"), cpus);
        put(&root, &format!("{node}/hugepages/hugepages-2048kB/free_hugepages"), pages);
    }
    let card = "sys/bus/pci/devices/0000:3b:00.0";
    put(&root, &format!("{card}/numa_node"), "1\n");
    let target = Path::new("../../../bus/pci/drivers/vfio-pci");
    std::os::unix::fs::symlink(target, root.path().join(card).join("driver")).expect("a link");
    std::os::unix::fs::symlink("/groups/7", root.path().join(card).join("iommu_group"))
        .expect("a link");
    for node in ["vfio", "7"] {
        put(&root, &format!("dev/vfio/{node}"), "");
    }
    let look = |system: &str| {
        said(&root, "0000:3b:00.0", PCAP1, &format!("system: {{ memory: 1GiB, {system} }}\n"))
    };
    let far = |workers: &str| {
        format!(
            "warning: port internal0: PCI device 0000:3b:00.0 is on NUMA node 1, {workers} on \
             node 0: their packets cross between the nodes; name CPUs of node 1 (1, 3) in \
             system.workers, or put the card into a slot of node 0"
        )
    };
    assert_eq!(look("workers: \"0\""), [far("worker 0 (CPU 0)")]);
    assert_eq!(look("workers: \"0,0\""), [far("workers 0-1 (CPUs 0, 0)")]);
    // On its node there is no memory for a worker.
    let said = look("workers: \"1\"");
    assert_eq!(said.len(), 1, "{said:?}");
    let lacks = "warning: system.workers: NUMA node 1: worker 0 (CPU 1) needs ";
    assert!(said[0].starts_with(lacks) && said[0].contains("0 MiB of huge pages"), "{said:?}");
    assert!(said[0].contains("/sys/devices/system/node/node1/"), "{said:?}");
    // Ordinary pages have no place.
    assert_eq!(look("workers: \"1\", huge-pages: off"), [""; 0]);
    put(&root, "sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", "512\n");
    assert_eq!(look("workers: \"1\""), [""; 0]);
    // The kernel knows of no node for it.
    put(&root, &format!("{card}/numa_node"), "-1\n");
    assert_eq!(look("workers: \"0,1\""), [""; 0]);
}

#[test]
fn huge_pages_are_required_or_only_missed() {
    let root = machine();
    let look = |system: &str| said(&root, PCAP0, PCAP1, &format!("system: {{ {system} }}\n"));
    let words = "system.huge-pages: 1024 MiB of huge pages are free, 2048 MiB are needed; \
                 dpdk-hugepages.py -p 2M -r 2048M, or: sysctl vm.nr_hugepages=1024";
    let warning = format!("warning: {words}");
    assert_eq!(look("memory: 2GiB, huge-pages: required"), [format!("error: {words}")]);
    assert_eq!(look("memory: 2GiB"), [warning]);
    assert_eq!(look("memory: 2GiB, huge-pages: off"), [""; 0]);
    put(&root, "sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "1\n");
    assert_eq!(look("memory: 2GiB, huge-pages: required"), [""; 0]);
    put(&root, "proc/self/mounts", "proc /proc proc rw 0 0\n");
    let expected = "error: system.huge-pages: no hugetlbfs is mounted, so DPDK cannot use huge pages; mkdir -p \
                    /dev/hugepages && mount -t hugetlbfs none /dev/hugepages";
    assert_eq!(look("memory: 2GiB, huge-pages: required"), [expected]);
    assert_eq!(look("memory: 2GiB"), [expected]);
    assert_eq!(look("memory: 2GiB, huge-pages: off"), [""; 0]);
    put(&root, "proc/self/mounts", "none /dev/hugepages hugetlbfs rw 0 0\n");
    assert_eq!(look("memory: 2GiB"), [""; 0]);
}

#[test]
fn cpus_must_exist_be_allowed_and_suffice() {
    let root = machine();
    let look = |system: &str| said(&root, PCAP0, PCAP1, &format!("system: {{ {system} }}\n"));
    assert_eq!(
        look("workers: \"1,2,9,9\", control-cpus: 8"),
        [
            "error: system.control-cpus: there is no CPU 8; lscpu -e lists them",
            "error: system.workers: CPU 2 is closed to this process; see taskset -pc $$",
            "error: system.workers: there is no CPU 9; lscpu -e lists them",
        ]
    );
    assert_eq!(
        look("workers: 2, control-cpus: 0"),
        ["warning: system.workers: 2 workers for 1 free CPUs: some share a CPU and wait for \
             each other"]
    );
    assert_eq!(
        look("control-cpus: 0-1"),
        ["error: system.workers: no CPU is left for workers; expected fewer control-cpus"]
    );
    assert_eq!(look("workers: \"0,1,1\""), [""; 0]);
    // Workers that rest share a CPU well, those that never do do not.
    assert_eq!(look("workers: \"0,1\", idle: busy"), [""; 0]);
    assert_eq!(
        look("workers: \"0,1,1,1\", idle: busy"),
        ["warning: system.idle: CPU 1 carries 3 workers, and none gives it away before its time \
             slice is over, packets or not; expected a CPU for each in system.workers, or \
             `adaptive`"]
    );
    assert_eq!(
        look("workers: 3, idle: busy"),
        ["warning: system.workers: 3 workers for 2 free CPUs: some share a CPU and wait for \
             each other, with `idle: busy` for whole time slices"]
    );
}
