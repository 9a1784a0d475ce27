//! Finds DPDK, generates bindings for the names listed here, and compiles callable twins of
//! DPDK's static inline functions.

use std::env;
use std::path::{Path, PathBuf};
use std::process::exit;

/// First release whose API these bindings follow (Debian 12 ships it as an LTS).
const OLDEST_DPDK: &str = "22.11";

/// Instruction set DPDK's own pkg-config file asks for; its inline functions use SSSE3.
#[cfg(target_arch = "x86_64")]
const MARCH: &[&str] = &["-march=corei7"];
#[cfg(not(target_arch = "x86_64"))]
const MARCH: &[&str] = &[];

/// Every function, type and constant that the `dpdk` crate uses; nothing else is bound.
const FUNCTIONS: &[&str] = &[
    "dpdk_sys_.*",
    "rte_eal_cleanup",
    "rte_eal_get_lcore_state",
    "rte_eal_init",
    "rte_eal_remote_launch",
    "rte_eal_wait_lcore",
    "rte_eth_bond_(8023ad_slave_info|active_slaves_get|create|free|primary_get|slave_add|xmit_policy_set)",
    "rte_eth_dev_(adjust_nb_rx_tx_desc|close|configure|get_name_by_port|get_port_by_name)",
    "rte_eth_dev_rss_(hash_conf_get|hash_update|reta_query|reta_update)",
    "rte_eth_dev_(default_mac_addr_set|info_get|is_valid_port|socket_id|start|stop)",
    "rte_eth_dev_(rx|tx)_offload_name",
    "rte_eth_(allmulticast_enable|find_next|link_get_nowait|macaddr_get|promiscuous_enable|stats_get)",
    "rte_eth_(rx|tx)_(burst|queue_setup)",
    "rte_get_tsc_(cycles|hz)",
    "rte_get_main_lcore",
    "rte_lcore_is_enabled",
    "rte_malloc_get_socket_stats",
    "rte_mbuf_dyn_rx_timestamp_register",
    "rte_mempool_(avail_count|free|in_use_count)",
    "rte_memzone_(free|reserve_aligned)",
    "rte_pktmbuf_(alloc|alloc_bulk|chain|free|free_bulk|linearize|pool_create|trim)",
    "rte_ring_(count|create|free|get_capacity|mp_enqueue_burst|sc_dequeue_burst)",
    "rte_softrss",
    "rte_socket_(count|id_by_idx)",
    "rte_strerror",
    "rte_version",
];
const CONSTANTS: &[&str] = &["DPDK_.*", "RTE_VER_.*"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=c/wrapper.h");

    let library = match pkg_config::Config::new().atleast_version(OLDEST_DPDK).probe("libdpdk") {
        Ok(library) => library,
        Err(error) => fail(&format!(
            "dpdk-sys needs DPDK {OLDEST_DPDK} or later with its headers (Debian and Ubuntu: \
             apt-get install libdpdk-dev); pkg-config said: {}",
            pkg_config_reason(&error)
        )),
    };

    // A driver with an interface of its own; pkg-config leaves drivers out.
    println!("cargo::rustc-link-lib=rte_net_bond");
    let mut c_args: Vec<String> =
        library.include_paths.iter().map(|path| format!("-I{}", path.display())).collect();
    c_args.push("-Ic".to_owned());
    c_args.push("-D_GNU_SOURCE".to_owned());
    // The crate `pkg-config` returns only include paths and libraries; the two flags below
    // are in DPDK's Cflags too.
    c_args.extend(["-include", "rte_config.h"].map(str::to_owned));
    c_args.extend(MARCH.iter().map(|flag| (*flag).to_owned()));

    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_else(|| fail("OUT_DIR is not set")));
    let twins = out.join("inline_twins.c");
    generate(&c_args, &out.join("bindings.rs"), &twins);
    compile(&c_args, &twins);
}

fn generate(c_args: &[String], bindings: &Path, twins: &Path) {
    use_clang_of_libclang();
    let mut builder = bindgen::Builder::default()
        .header("c/wrapper.h")
        .clang_args(c_args)
        .default_enum_style(bindgen::EnumVariation::ModuleConsts)
        .derive_default(true)
        .use_core()
        .generate_comments(false)
        // The size and offset checks are the guard against a DPDK with another layout.
        .layout_tests(true)
        .wrap_static_fns(true)
        .wrap_static_fns_path(twins)
        // Devices are only pointed at; their insides are DPDK's. Rust has no packed struct with an aligned
        // one in it, and nobody reads what a LACP partner calls itself.
        .opaque_type("port_params|rte_device|rte_mempool|rte_ring|_IO_FILE")
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()));
    for pattern in FUNCTIONS {
        builder = builder.allowlist_function(pattern);
    }
    for pattern in CONSTANTS {
        builder = builder.allowlist_var(pattern);
    }
    let generated = match builder.generate() {
        Ok(generated) => generated,
        Err(error) => fail(&format!(
            "bindgen could not read the DPDK headers (Debian and Ubuntu: apt-get install \
             libclang-dev clang; both of one major version): {error}"
        )),
    };
    if let Err(error) = generated.write_to_file(bindings) {
        fail(&format!("cannot write {}: {error}", bindings.display()));
    }
}

/// bindgen parses with libclang but asks the `clang` program where the compiler's own
/// headers are. With two releases installed they may differ in version and the intrinsics
/// headers then do not parse, so name the program that belongs to the library.
fn use_clang_of_libclang() {
    println!("cargo::rerun-if-env-changed=CLANG_PATH");
    println!("cargo::rerun-if-env-changed=LIBCLANG_PATH");
    if env::var_os("CLANG_PATH").is_some() {
        return;
    }
    let Some((major, _)) = bindgen::clang_version().parsed else { return };
    let clang = PathBuf::from(format!("/usr/lib/llvm-{major}/bin/clang"));
    if clang.exists() {
        // SAFETY: a build script has one thread at this point; nothing reads the
        // environment concurrently.
        unsafe { env::set_var("CLANG_PATH", clang) };
    }
}

fn compile(c_args: &[String], twins: &Path) {
    let mut build = cc::Build::new();
    build.file(twins).include(".").opt_level(3).warnings(false);
    for arg in c_args {
        build.flag(arg);
    }
    if let Err(error) = build.try_compile("dpdk_sys_inline") {
        fail(&format!("the C compiler refused DPDK's inline functions: {error}"));
    }
}

/// The first line of pkg-config's own words, without the crate's advice.
fn pkg_config_reason(error: &pkg_config::Error) -> String {
    let text = match error {
        pkg_config::Error::ProbeFailure { output, .. }
        | pkg_config::Error::Failure { output, .. } => {
            String::from_utf8_lossy(&output.stderr).into_owned()
        }
        other => other.to_string(),
    };
    text.lines().next().unwrap_or("nothing").to_owned()
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1)
}
