//! `cgnat lookup`: answers from a file alone, byte for byte, with their exit codes (RFC 7422
//! section 2 asks for a way to test both functions).

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

const ISP: &str = "configs/isp.yaml";

/// Exit code, standard output and standard error of the program at the top of the project.
fn cgnat(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_cgnat"))
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn says(arguments: &[&str], code: i32, text: &str) {
    let all = [&["lookup", ISP], arguments].concat();
    assert_eq!(cgnat(&all), (Some(code), text.to_owned(), String::new()), "{arguments:?}");
}

#[test]
fn both_functions_of_a_deterministic_pool_can_be_tested_offline_7422_s2b() {
    // 20 ranges of 2016 ports from 16384 on; the first address is 198.51.100.1.
    says(
        &["--internal", "100.96.0.9"],
        0,
        "100.96.0.9 has 198.51.100.1 ports 34528-36543: subscriber 9 of pool business\n\
         100.96.0.9 may have overflow blocks of 198.51.100.1 ports 56704-65407: only a log can \
         tell which\n",
    );
    for port in ["34528", "36543"] {
        let answer = format!(
            "198.51.100.1:{port} is 100.96.0.9: subscriber 9 of pool business, ports \
             34528-36543\n"
        );
        says(&["--external", &format!("198.51.100.1:{port}")], 0, &answer);
    }
    says(
        &["--external", "198.51.100.26:40000"],
        0,
        "198.51.100.26:40000 is 100.96.1.255: subscriber 511 of pool business, ports 38560-40575\n",
    );
}

#[test]
fn static_mappings_answer_for_their_endpoints() {
    let one = "100.64.9.9 has 203.0.113.98 to itself, by a static mapping\n";
    says(&["--internal", "100.64.9.9"], 0, one);
    says(
        &["--external", "203.0.113.81:77"],
        0,
        "tcp 203.0.113.81:77 is 100.64.9.17:77, by a static mapping\n\
         udp 203.0.113.81:77 is 100.64.9.17:77, by a static mapping\n\
         icmp 203.0.113.81:77 is 100.64.9.17:77, by a static mapping\n",
    );
    says(
        &["--external", "203.0.113.70:443", "--json"],
        0,
        "{\"answer\":\"static\",\"external\":\"203.0.113.70\",\"mapped\":[{\"internal\":\
         \"100.64.9.10\",\"port\":8443,\"protocol\":\"tcp\"}]}\n",
    );
    let beside = "203.0.113.70:9011 is in block 8704-9215 of pool residential: only a log can tell \
                  whose it was\n";
    says(&["--external", "203.0.113.70:9011"], 1, beside);
}

#[test]
fn what_the_file_alone_cannot_tell_is_said_and_ends_with_1() {
    let answers = [
        (
            "--internal",
            "100.64.0.1",
            "100.64.0.1 gets blocks of pools residential, spare, dns on demand: only a log can tell \
             which",
        ),
        ("--internal", "10.0.0.1", "10.0.0.1 is no subscriber"),
        (
            "--external",
            "203.0.113.1:5000",
            "203.0.113.1:5000 is in block 4608-5119 of pool residential: only a log can tell whose it was",
        ),
        (
            "--external",
            "198.51.100.1:65000",
            "198.51.100.1:65000 is in overflow block 64896-65407 of pool business: only a log can tell whose it was",
        ),
        ("--external", "198.51.100.1:65500", "pool business does not lend 198.51.100.1:65500"),
        (
            "--external",
            "198.51.100.30:16384",
            "198.51.100.30:16384 is nobody's: no subscriber of pool business has its ports 16384-18399",
        ),
        ("--external", "203.0.113.13:5000", "203.0.113.13 is in no pool"),
    ];
    for (direction, what, answer) in answers {
        says(&[direction, what], 1, &format!("{answer}\n"));
    }
}

#[test]
fn programs_get_one_object_for_both_directions() {
    let range = "{\"answer\":\"range\",\"external\":\"198.51.100.1\",\"first_port\":34528,\
                 \"last_port\":36543,\"number\":9,\"overflow\":{\"first_port\":56704,\
                 \"last_port\":65407},\"pool\":\"business\",\"subscriber\":\"100.96.0.9\"}\n";
    says(&["--json", "--internal", "100.96.0.9"], 0, range);
    says(&["--json", "--external", "198.51.100.1:35000"], 0, range);
    says(
        &["--json", "--external", "203.0.113.1:5000"],
        1,
        "{\"answer\":\"log\",\"external\":\"203.0.113.1\",\"first_port\":4608,\"last_port\":5119,\
         \"pool\":\"residential\"}\n",
    );
    says(
        &["--json", "--internal", "100.64.0.1"],
        1,
        "{\"answer\":\"pools\",\"on_demand\":[\"residential\",\"spare\",\"dns\"],\"ranges\":[],\
         \"subscriber\":\"100.64.0.1\"}\n",
    );
    says(
        &["--json", "--internal", "10.0.0.1"],
        1,
        "{\"answer\":\"none\",\"reason\":\"10.0.0.1 is no subscriber\"}\n",
    );
}

#[test]
fn a_wrong_question_is_2_and_a_wrong_file_is_78() {
    for wrong in [
        &["lookup", ISP][..],
        &["lookup", "--internal", "100.96.0.9"],
        &["lookup", ISP, "--internal", "100.96.0.999"],
        &["lookup", ISP, "--external", "198.51.100.1"],
        &["lookup", ISP, "--external", "198.51.100.1:70000"],
        &["lookup", ISP, "--internal", "100.96.0.9", "--external", "198.51.100.1:5000"],
    ] {
        let (code, out, err) = cgnat(wrong);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{wrong:?}");
        assert!(err.starts_with("error: "), "{wrong:?}: {err}");
    }
    let (code, out, err) = cgnat(&["lookup", "none.yaml", "--internal", "100.96.0.9"]);
    assert_eq!((code, out.as_str()), (Some(78), ""));
    assert_eq!(err, "none.yaml: error: there is no such file\n");
    let broken = "configs/broken/53-deterministic.yaml";
    let lookup = cgnat(&["lookup", broken, "--internal", "100.96.0.9"]);
    let check = cgnat(&["check", broken]);
    assert_eq!(lookup, check);
    assert_eq!(lookup.0, Some(78));
}
