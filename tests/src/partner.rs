//! The other end of a bond: Open vSwitch in the box's namespace, which speaks LACP of its own.
//!
//! ```text
//!  subscribers ===== cg-int -+
//!                            +- switch - bond of tap0 and tap1 ===== appliance
//!  servers     ===== cg-ext -+
//! ```
//!
//! It forwards in user space, so no module of the kernel is needed. Hosts may be in VLANs of the bond.
//!
//! It does not start the appliance, which has to make the taps first.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::lab::{EXTERNAL, INTERNAL, Lab, MACS, Namespace};
use crate::process::{Process, run, wait_until};

/// The taps that the appliance makes for the members of its bond.
pub const MEMBERS: [&str; 2] = ["bond-a", "bond-b"];

const SWITCH: &str = "switch0";
const BOND: &str = "bond0";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const LIMIT: Duration = Duration::from_secs(30);

/// How the switch's end of the bond works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacp {
    /// It speaks LACP, and carries packets only where the appliance agrees.
    Active,
    /// It is a bond, and does not speak.
    Off,
}

/// A running switch; ended when dropped.
#[derive(Debug)]
pub struct Partner<'a> {
    namespace: &'a Namespace,
    directory: TempDir,
    _processes: [Process; 2],
}

impl<'a> Partner<'a> {
    /// Starts a switch with the hosts of these sides behind it, each with the id of its VLAN on the bond, if
    /// it is in one.
    ///
    /// # Errors
    /// Open vSwitch (package openvswitch-switch) is missing, or refused something.
    pub fn start(lab: &'a Lab, hosts: &[(usize, Option<u16>)]) -> Result<Partner<'a>> {
        let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
        let database = directory.path().join("conf.db");
        let mut create = Command::new("ovsdb-tool");
        create.arg("create").arg(&database).arg(SCHEMA);
        run(create, LIMIT).context("needs package openvswitch-switch")?;
        let begin = |program: &str, arguments: &[String]| {
            let mut command = lab.middle.command(program);
            command.args(arguments).arg(format!("--unixctl={}", path(&directory, program)));
            command.env("OVS_RUNDIR", directory.path()).stdout(Stdio::null()).stderr(Stdio::null());
            Process::start(program, command)
        };
        let socket = format!("unix:{}", path(&directory, "db.sock"));
        let server = begin(
            "ovsdb-server",
            &[database.display().to_string(), format!("--remote=p{socket}")],
        )?;
        let switch = begin("ovs-vswitchd", std::slice::from_ref(&socket))?;
        let partner = Partner { namespace: &lab.middle, directory, _processes: [server, switch] };
        wait_until("the switch's database", LIMIT, || {
            Ok(partner.directory.path().join("db.sock").exists())
        })?;
        partner.set(&["--no-wait", "init"])?;
        let bridge = ["add-br", SWITCH, "--", "set", "bridge", SWITCH, "datapath_type=netdev"];
        partner.set(&[&bridge[..], &["other-config:hwaddr=02:00:00:00:00:97"]].concat())?;
        for (side, vlan) in hosts {
            let interface = [INTERNAL, EXTERNAL][*side];
            // The appliance's MAC is on the bond.
            let mac = format!("02:00:00:00:{side:02x}:98");
            lab.middle.run("ip", &["link", "set", interface, "address", &mac])?;
            let tag = vlan.map(|id| format!("tag={id}"));
            let add = ["add-port", SWITCH, interface];
            partner.set(&add.into_iter().chain(tag.as_deref()).collect::<Vec<_>>())?;
        }
        Ok(partner)
    }

    /// The members of a bond as the appliance's configuration names them.
    pub fn members() -> String {
        let member = |(number, name): (usize, &str)| {
            let mac = MACS[1 + number];
            format!("\"net_tap{number},iface={name},mac={mac}\"")
        };
        MEMBERS.into_iter().enumerate().map(member).collect::<Vec<_>>().join(", ")
    }

    /// Bonds [`MEMBERS`], which have to be there.
    ///
    /// # Errors
    /// The switch refused.
    pub fn bond(&self, lacp: Lacp) -> Result<()> {
        let [a, b] = MEMBERS;
        let (mode, lacp) = match lacp {
            Lacp::Active => ("bond_mode=balance-tcp", "lacp=active"),
            Lacp::Off => ("bond_mode=balance-slb", "lacp=off"),
        };
        self.set(&["add-bond", SWITCH, BOND, a, b, mode, lacp])
    }

    /// Takes the bond away.
    ///
    /// # Errors
    /// The switch refused.
    pub fn unbond(&self) -> Result<()> {
        self.set(&["del-port", SWITCH, BOND])
    }

    /// Pulls the cable of a member, or puts it back.
    ///
    /// # Errors
    /// ip refused.
    pub fn cable(&self, member: usize, is_in: bool) -> Result<()> {
        let state = if is_in { "up" } else { "down" };
        self.namespace.run("ip", &["link", "set", MEMBERS[member], state]).map(drop)
    }

    /// What the switch says of LACP.
    ///
    /// # Errors
    /// It does not answer.
    pub fn lacp(&self) -> Result<String> {
        let mut command = Command::new("ovs-appctl");
        command.args(["-t", &path(&self.directory, "ovs-vswitchd"), "lacp/show", BOND]);
        run(command, LIMIT)
    }

    fn set(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("ovs-vsctl");
        command.arg(format!("--db=unix:{}", path(&self.directory, "db.sock"))).arg("--timeout=20");
        command.args(arguments);
        let said = run(command, LIMIT)?;
        ensure!(said.is_empty(), "ovs-vsctl {arguments:?} said {said}");
        Ok(())
    }
}

fn path(directory: &TempDir, name: &str) -> String {
    let path: PathBuf = directory.path().join(name);
    path.display().to_string()
}
