use std::io::{BufRead as _, BufReader};

use super::*;

fn show(ask: Ask<'_>) -> Result<Value, String> {
    match ask {
        Ask::Show("steering") => Ok(json!({ "ports": {} })),
        Ask::Show(what) => Err(unknown(what)),
        Ask::Drain(is_wanted) => Ok(json!({ "drains": is_wanted })),
    }
}

struct Bench {
    directory: tempfile::TempDir,
    control: Control,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let control = Control::open(&directory.path().join("control.sock")).expect("a socket");
        Self { directory, control }
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.control.path).expect("it listens")
    }

    /// Looks until there is a line for the client, or its end.
    fn line(&mut self, client: &UnixStream) -> String {
        client.set_nonblocking(true).expect("a socket");
        let mut reader = BufReader::new(client);
        let mut line = String::new();
        for _ in 0..100_000 {
            self.control.mind(show);
            match reader.read_line(&mut line) {
                Ok(_) => return line,
                Err(error) => assert!(is_passing(&error), "{error}"),
            }
        }
        panic!("neither a line nor an end, but {line:?}");
    }

    fn ask(&mut self, request: &str) -> String {
        let mut client = self.connect();
        client.write_all(request.as_bytes()).expect("room");
        self.line(&client)
    }
}

#[test]
fn questions_are_answered_in_order_also_in_pieces_and_to_several_clients() {
    let mut bench = Bench::new();
    let ok = "{\"ok\":{\"ports\":{}}}\n";
    let (mut one, mut other) = (bench.connect(), bench.connect());
    one.write_all(b"{\"show\": \"stee").expect("room");
    bench.control.mind(show);
    other.write_all(b"{\"show\": \"steering\"}\n").expect("room");
    assert_eq!(bench.line(&other), ok);
    one.write_all(b"ring\"}\n{\"show\": \"steering\"}\n").expect("room");
    one.shutdown(std::net::Shutdown::Write).expect("open");
    assert_eq!(bench.line(&one), ok);
    assert_eq!(bench.line(&one), ok);
    assert_eq!(bench.line(&one), "", "its end");
    drop(other);
    bench.control.mind(show);
    assert_eq!(bench.control.clients.len(), 0);
}

#[test]
fn what_is_not_understood_is_said_with_what_was_expected() {
    let mut bench = Bench::new();
    let expected = "expected {\\\"show\\\": \\\"steering\\\"}, ";
    for (request, part) in [
        ("show steering\n", "the request is not JSON"),
        ("\n", "the request is not JSON"),
        ("{\"show\": \"all\"}\n", "there is no `all` to show"),
        ("{\"show\": \"steering\", \"fast\": true}\n", "is not understood"),
        ("{\"show\": 1}\n", expected),
        ("[\"show\"]\n", expected),
        ("{}\n", expected),
        ("{\"drain\": \"yes\"}\n", "is not understood"),
        ("\u{0}\u{ff}\n", "the request is not JSON"),
    ] {
        let answer = bench.ask(request);
        assert!(answer.starts_with("{\"error\":\"") && answer.contains(part), "{answer}");
    }
}

#[test]
fn a_drain_is_asked_for_and_taken_back() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask("{\"drain\": true}\n"), "{\"ok\":{\"drains\":true}}\n");
    assert_eq!(bench.ask("{\"drain\": false}\n"), "{\"ok\":{\"drains\":false}}\n");
}

#[test]
fn a_request_without_an_end_is_refused_and_its_client_goes() {
    let mut bench = Bench::new();
    let mut client = bench.connect();
    client.write_all(&[b' '; REQUEST]).expect("room");
    assert!(bench.line(&client).contains("no end of line within 4096 bytes"));
    bench.control.mind(show);
    assert_eq!(bench.control.clients.len(), 0);
}

#[test]
fn more_clients_than_there_is_room_for_are_told_and_the_others_go_on() {
    let mut bench = Bench::new();
    let clients: Vec<_> = (0..CLIENTS).map(|_| bench.connect()).collect();
    bench.control.mind(show);
    assert_eq!(bench.control.clients.len(), CLIENTS);
    assert!(bench.ask("").contains("8 clients are connected"));
    let mut last = clients.last().expect("there are some");
    last.write_all(b"{\"show\": \"steering\"}\n").expect("room");
    assert!(bench.line(last).contains("ok"));
    drop(clients);
    bench.control.mind(show);
    assert_eq!(bench.control.clients.len(), 0);
}

#[test]
fn a_client_that_does_nothing_is_sent_away() {
    let mut bench = Bench::new();
    let client = bench.connect();
    bench.control.mind(show);
    bench.control.clients[0].last_active -= PATIENCE;
    assert_eq!(bench.line(&client), "");
}

#[test]
fn the_socket_is_for_owner_and_group_and_goes_with_the_box() {
    let bench = Bench::new();
    let path = bench.control.path.clone();
    let mode = std::fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let error = Control::open(&path).err().expect("taken").to_string();
    assert!(error.contains("somebody listens on") && error.contains("another path"), "{error}");
    let Bench { directory, control } = bench;
    drop(control);
    assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 0);
}

#[test]
fn a_socket_of_a_dead_process_is_replaced_and_anything_else_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("control.sock");
    drop(UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists(), "a listener leaves its socket behind");
    drop(Control::open(&path).expect("replaced"));
    std::fs::write(&path, "precious").expect("written");
    let error = Control::open(&path).err().expect("refused").to_string();
    assert!(error.contains("is not a socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).expect("still there"), "precious");
    let nowhere = directory.path().join("none/control.sock");
    let error = Control::open(&nowhere).err().expect("refused").to_string();
    assert!(
        error.contains("cannot make") && error.contains("a directory that is there"),
        "{error}"
    );
}
