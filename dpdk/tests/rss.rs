//! Receive-side scaling: what is set is given back, and the software hash is the known one.
#![allow(clippy::unwrap_used)]

mod common;

use common::{in_child, options, pool};
use dpdk::{Eal, Port, PortConfig, PortError, Rss, RssFields, soft_rss};

/// The key and the first IPv4 rows of the verification suite that card makers publish.
const KNOWN_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

#[test]
fn the_software_hash_is_that_of_the_published_suite() {
    let address = |a: [u8; 4]| u32::from_be_bytes(a);
    let row = [address([66, 9, 149, 187]), address([161, 142, 100, 80]), 2794 << 16 | 1766];
    assert_eq!(soft_rss(&KNOWN_KEY, &row[..2]), 0x323e_8fc2);
    assert_eq!(soft_rss(&KNOWN_KEY, &row), 0x51cc_c178);
}

#[test]
fn a_key_and_a_table_are_given_back_as_they_were_set() {
    in_child("a_key_and_a_table_are_given_back_as_they_were_set", || {
        let eal = Eal::init(&options(&["net_null0".into(), "net_ring0".into()])).unwrap();
        let pool = pool(&eal, "p");
        let port = Port::by_name(&eal, "net_null0").unwrap();
        let abilities = port.rss_abilities().unwrap();
        assert!(abilities.hashes_addresses && abilities.table_entries >= 64, "{abilities:?}");
        let key: Vec<u8> = (0..abilities.key_bytes).map(|n| n as u8 ^ 0xa5).collect();
        let rss = Some(Rss { fields: RssFields::Anything, key: Some(key.clone()) });
        let config = PortConfig { rx_queues: 2, tx_queues: 2, rss, ..PortConfig::default() };
        let started = port.start(&config, std::slice::from_ref(&pool)).unwrap();
        assert_eq!(started.key_refused, None);
        // This driver ignores what it is configured with.
        assert_ne!(started.port.rss_key().unwrap(), key);
        started.port.set_rss_key(RssFields::Anything, &key).unwrap();
        assert_eq!(started.port.rss_key().unwrap(), key);
        assert!(started.port.set_rss_key(RssFields::SourceAddress, &key).is_err());
        // The driver's own answers.
        let answers = started.port.answers().unwrap();
        assert_eq!((answers.driver.as_str(), answers.rss), ("net_null", abilities));
        assert_eq!((answers.rx_queues.0, answers.tx_queues.0), (2, 2));
        assert!(answers.rx_queues.1 >= 2 && answers.mtu.0 < answers.mtu.1, "{answers:?}");
        assert_eq!(answers.descriptors, (config.rx_descriptors, config.tx_descriptors));
        let table: Vec<u16> = (0..abilities.table_entries).map(|n| n / 3 % 2).collect();
        started.port.set_rss_table(&table).unwrap();
        assert_eq!(started.port.rss_table().unwrap(), table);
        // Of another length than the driver has.
        let error = started.port.set_rss_table(&table[..table.len() / 2]).unwrap_err();
        assert!(matches!(error, PortError::Rss { .. }), "{error}");
        // A driver without.
        let ring = Port::by_name(&eal, "net_ring0").unwrap();
        assert!(!ring.rss_abilities().unwrap().hashes_addresses);
        let answers = ring.answers().unwrap();
        assert_eq!(answers.tx_offloads, (vec![], vec!["MULTI_SEGS".to_owned()]), "not started");
        assert!(ring.rss_key().is_err());
    });
}
