//! What a guest boots: a stock Debian kernel and a static busybox, fetched as packages and
//! unpacked below the build directory, and an initramfs of a few modules. Nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::appliance::target_directory;
use crate::process::run;

/// The package that depends on the kernel of the day.
const NEWEST: &str = "linux-image-amd64";
const BUSYBOX: &str = "busybox-static";

/// Modules without which the guest has no root file system.
const FOR_ROOT: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

const FETCH_LIMIT: Duration = Duration::from_secs(300);
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// A kernel with its modules, unpacked.
#[derive(Debug, Clone)]
pub struct Image {
    /// Holds `boot` and `lib/modules`, and `bin/busybox`.
    root: PathBuf,
    /// As `uname -r` will say.
    release: String,
}

impl Image {
    /// The newest kernel that apt knows; fetches and unpacks it unless that was done before. Only
    /// one process at a time: its caller holds the lock of the laboratory.
    ///
    /// # Errors
    /// apt knows no kernel or cannot fetch it, or it cannot be unpacked.
    pub fn prepare() -> Result<Image> {
        let place = target_directory()?.join("vm");
        fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        let attempt = || {
            let kernel = newest()?;
            fetch(&place, &kernel).map(|root| (root, kernel))
        };
        // Package lists that are old name files that are gone.
        let (root, kernel) = match attempt() {
            Ok(found) => found,
            Err(first) => run(apt("apt-get", &["-q", "update"]), FETCH_LIMIT)
                .and_then(|_| attempt())
                .with_context(|| format!("the guest's kernel cannot be had: first {first:#}"))?,
        };
        let release = kernel.strip_prefix("linux-image-").context("the name of a kernel")?;
        let image = Image { root, release: release.to_owned() };
        ensure!(image.kernel().is_file(), "no {} in {kernel}", image.kernel().display());
        Ok(image)
    }

    /// The kernel's file.
    pub fn kernel(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// A command line that loads `modules`, with what they need, in the guest.
    pub fn modprobe(&self, modules: &[&str]) -> String {
        format!("modprobe -d {} -a {}", self.root.display(), modules.join(" "))
    }

    /// Writes an initramfs into `directory`; its path.
    ///
    /// # Errors
    /// A module is missing, or a file cannot be written.
    pub fn initramfs(&self, directory: &Path) -> Result<PathBuf> {
        let content = directory.join("initramfs");
        for name in ["bin", "modules"] {
            fs::create_dir_all(content.join(name)).context("cannot make a directory")?;
        }
        fs::copy(self.root.join("bin/busybox"), content.join("bin/busybox"))
            .context("cannot copy busybox")?;
        let init = content.join("init");
        fs::write(&init, include_str!("init.sh")).context("cannot write init")?;
        let mut chmod = Command::new("chmod");
        chmod.arg("755").arg(&init);
        run(chmod, STEP_LIMIT)?;
        let mut files: Vec<PathBuf> = Vec::new();
        for module in FOR_ROOT {
            for file in self.needed(module)? {
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        for (number, file) in files.iter().enumerate() {
            let name = file.file_name().context("a module has a name")?.to_string_lossy();
            let to = content.join(format!("modules/{number:02}-{name}"));
            fs::copy(file, to).with_context(|| format!("cannot copy {}", file.display()))?;
        }
        let archive = directory.join("initramfs.cpio");
        let mut pack = Command::new("sh");
        pack.args(["-c", "cd \"$1\" && find . | \"$2\" cpio -o -H newc >\"$3\"", "pack"]);
        pack.arg(&content).arg(self.root.join("bin/busybox")).arg(&archive);
        run(pack, STEP_LIMIT)?;
        Ok(archive)
    }

    /// Files to load for a module, in order.
    fn needed(&self, module: &str) -> Result<Vec<PathBuf>> {
        let mut command = Command::new("/sbin/modprobe");
        command.arg("-d").arg(&self.root).args(["-S", &self.release, "-D", module]);
        let text = run(command, STEP_LIMIT)?;
        // "insmod /path/of/module.ko "; what is built in is "builtin name".
        let files = text.lines().filter_map(|line| line.strip_prefix("insmod "));
        Ok(files.map(|path| PathBuf::from(path.trim())).collect())
    }
}

fn apt(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    // The user that apt fetches as cannot write where we build.
    command.args(["-o", "APT::Sandbox::User=root"]).args(arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    command
}

/// The name of the newest kernel's package.
fn newest() -> Result<String> {
    let text = run(apt("apt-cache", &["depends", "--important", NEWEST]), STEP_LIMIT)?;
    let kernel = text.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let kernel = kernel.with_context(|| format!("{NEWEST} depends on no kernel: {text}"))?;
    Ok(format!("linux-image-{kernel}"))
}

/// Fetches and unpacks below `place`, unless this very version is there; its root.
fn fetch(place: &Path, kernel: &str) -> Result<PathBuf> {
    let packages = [kernel, BUSYBOX];
    let uris =
        run(apt("apt-get", &[&["download", "--print-uris"], &packages[..]].concat()), STEP_LIMIT)?;
    // "'http://.../linux-image-..._amd64.deb' linux-image-..._amd64.deb 70550672 SHA256:..."
    let files: Vec<&str> = uris.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    ensure!(files.len() == packages.len(), "apt-get download --print-uris said {uris}");
    let named = |package: &str| files.iter().find(|file| file.starts_with(package));
    let file = named(kernel).with_context(|| format!("no {kernel} in {uris}"))?;
    let root = place.join(file.trim_end_matches(".deb"));
    if root.is_dir() {
        return Ok(root);
    }
    let work = tempfile::tempdir_in(place).context("cannot make a temporary directory")?;
    let mut download = apt("apt-get", &["-q", "download"]);
    download.args(packages).current_dir(work.path());
    run(download, FETCH_LIMIT)?;
    let unpacked = work.path().join("root");
    for entry in fs::read_dir(work.path()).context("cannot read what was fetched")? {
        let path = entry.context("cannot read what was fetched")?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let mut unpack = Command::new("dpkg");
            unpack.arg("-x").arg(&path).arg(&unpacked);
            run(unpack, STEP_LIMIT)?;
        }
    }
    let mut depmod = Command::new("/sbin/depmod");
    depmod.arg("-b").arg(&unpacked).arg(kernel.trim_start_matches("linux-image-"));
    run(depmod, STEP_LIMIT)?;
    // Whole or not at all.
    fs::rename(&unpacked, &root)
        .with_context(|| format!("cannot move the kernel to {}", root.display()))?;
    Ok(root)
}
