//! FTP and TFTP servers, and curl as their client.
//!
//! | program | package | role |
//! | --- | --- | --- |
//! | `vsftpd` | vsftpd | FTP: connects from port 20, takes a PORT of its peer's address only |
//! | `dnsmasq` | dnsmasq-base | TFTP: answers each request from a port of its own |
//! | `curl` | curl | the client: passive, EPRT, PORT, and TFTP |

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::lab::Namespace;
use crate::process::output_within;
use crate::traffic::Server;

const LIMIT: Duration = Duration::from_secs(40);

/// Directory, under the server's root, that takes uploads.
pub const INCOMING: &str = "incoming";

/// An FTP server on `address`:21 for the files of [`Server::root`], for everybody; its log has
/// every command as it arrived.
///
/// # Errors
/// It does not start within 10 s.
pub fn ftp(namespace: &Namespace, address: Ipv4Addr) -> Result<Server> {
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let root = directory.path().join("root");
    let empty = directory.path().join("empty");
    std::fs::create_dir_all(root.join(INCOMING)).context("cannot make the FTP directory")?;
    std::fs::create_dir(&empty).context("cannot make an empty directory")?;
    let settings = directory.path().join("vsftpd.conf");
    let text = format!(
        "listen=YES\nbackground=NO\nlisten_address={address}\n\
         run_as_launching_user=YES\nseccomp_sandbox=NO\nsecure_chroot_dir={}\n\
         anonymous_enable=YES\nno_anon_password=YES\nanon_root={}\nanon_upload_enable=YES\n\
         anon_umask=022\nwrite_enable=YES\nconnect_from_port_20=YES\n\
         xferlog_enable=YES\nlog_ftp_protocol=YES\nvsftpd_log_file={}\n",
        empty.display(),
        root.display(),
        directory.path().join("commands").display(),
    );
    std::fs::write(&settings, text).context("cannot write the configuration of vsftpd")?;
    let mut command = namespace.command("vsftpd");
    command.arg(&settings);
    Server::start("vsftpd", namespace, 21, directory, command)
}

/// The commands with an address that an FTP server got, as `PORT 203,0,113,1,4,1`.
///
/// # Errors
/// It has written no log.
pub fn commands(ftp: &Server) -> Result<Vec<String>> {
    let path = ftp.root().with_file_name("commands");
    let log = std::fs::read_to_string(path).context("vsftpd wrote no log")?;
    // "... FTP command: Client "203.0.113.9", "EPRT |1|203.0.113.9|4711|""
    let quoted = log.lines().filter(|line| line.contains(" FTP command: "));
    let commands = quoted.filter_map(|line| line.rsplit('"').nth(1)).map(str::to_owned);
    Ok(commands
        .filter(|command| {
            ["PORT", "EPRT", "PASV", "EPSV"].iter().any(|verb| command.starts_with(verb))
        })
        .collect())
}

/// A TFTP server on `address`:69 for the files of [`Server::root`].
///
/// # Errors
/// It does not start within 10 s.
pub fn tftp(namespace: &Namespace, address: Ipv4Addr) -> Result<Server> {
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let root = directory.path().join("root");
    std::fs::create_dir(&root).context("cannot make the TFTP directory")?;
    let mut command = namespace.command("dnsmasq");
    command.args(["--no-daemon", "--conf-file=/dev/null", "--port=0", "--bind-interfaces"]);
    command.args(["--log-facility=-", "--user=root", "--enable-tftp"]);
    command.arg(format!("--listen-address={address}"));
    command.arg(format!("--tftp-root={}", root.display()));
    Server::start("dnsmasq", namespace, 69, directory, command)
}

/// How curl moves files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// FTP, the client connects: EPSV.
    ExtendedPassive,
    /// FTP, the client connects: PASV.
    Passive,
    /// FTP, the server connects: EPRT.
    ExtendedActive,
    /// FTP, the server connects: PORT.
    Active,
    /// TFTP.
    Tftp,
}

impl Mode {
    /// The four of FTP.
    pub const FTP: [Mode; 4] =
        [Mode::ExtendedPassive, Mode::Passive, Mode::ExtendedActive, Mode::Active];

    /// Whether the server connects to the client.
    pub fn is_active(self) -> bool {
        matches!(self, Mode::ExtendedActive | Mode::Active)
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Mode::ExtendedPassive => &["--ftp-pasv"],
            Mode::Passive => &["--ftp-pasv", "--disable-epsv"],
            Mode::ExtendedActive => &["--ftp-port", "-", "--eprt"],
            Mode::Active => &["--ftp-port", "-", "--disable-eprt"],
            Mode::Tftp => &[],
        }
    }

    /// The verb with which the server is asked for a data connection.
    pub fn verb(self) -> &'static str {
        match self {
            Mode::ExtendedPassive => "EPSV",
            Mode::Passive => "PASV",
            Mode::ExtendedActive => "EPRT",
            Mode::Active => "PORT",
            Mode::Tftp => "",
        }
    }
}

/// A subscriber's client.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Where it runs.
    pub namespace: &'a Namespace,
    /// Its internal address.
    pub source: Ipv4Addr,
    /// The server.
    pub server: Ipv4Addr,
    /// How it moves files.
    pub mode: Mode,
}

impl Client<'_> {
    /// Fetches `names` from the server's root into `directory`, one after the other on one control
    /// connection.
    ///
    /// # Errors
    /// curl was not done in time, or failed: with its exit code and what it said.
    pub fn download(self, names: &[&str], directory: &Path) -> Result<()> {
        let mut arguments = Vec::new();
        for name in names {
            arguments.extend(["--output".to_owned(), directory.join(name).display().to_string()]);
            arguments.push(format!("{}://{}/{name}", self.scheme(), self.server));
        }
        self.curl(&arguments)
    }

    /// Puts `names` of `directory` into [`INCOMING`], one after the other on one control connection.
    ///
    /// # Errors
    /// As for [`Client::download`].
    pub fn upload(self, names: &[&str], directory: &Path) -> Result<()> {
        let mut arguments = Vec::new();
        for name in names {
            arguments
                .extend(["--upload-file".to_owned(), directory.join(name).display().to_string()]);
            arguments.push(format!("{}://{}/{INCOMING}/{name}", self.scheme(), self.server));
        }
        self.curl(&arguments)
    }

    fn scheme(self) -> &'static str {
        if self.mode == Mode::Tftp { "tftp" } else { "ftp" }
    }

    fn curl(self, arguments: &[String]) -> Result<()> {
        let mut command = self.namespace.command("curl");
        // curl is patient with a TFTP server that does not answer.
        let max_time = if self.mode == Mode::Tftp { "10" } else { "20" };
        command.args(["--silent", "--show-error", "--verbose", "--max-time", max_time]);
        command.args(["--ftp-skip-pasv-ip", "--interface", &self.source.to_string()]);
        command.args(self.mode.options()).args(arguments);
        let output = output_within(command, LIMIT)?;
        let code = output.status.code().unwrap_or(-1);
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(code == 0, "{self:?}: curl ended with {code}: {said}");
        let connections =
            said.lines().filter(|line| line.starts_with("< 220") && !line.contains("220-"));
        let control = connections.count();
        ensure!(
            self.mode == Mode::Tftp || control == 1,
            "{self:?}: {control} control connections: {said}"
        );
        Ok(())
    }
}
