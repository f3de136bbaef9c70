//! `leasehold install DIR`: puts this program where another container can run it, for clusters whose pods cannot mount
//! an image.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Whoever may read it may run it.
const MODE: u32 = 0o755;
const NAME: &str = "leasehold";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// An existing directory, as a volume that both containers mount
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub fn main(args: &Args) -> ExitCode {
    match install(&args.dir) {
        Ok(path) => {
            println!("leasehold {} is now {}", env!("CARGO_PKG_VERSION"), path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("leasehold: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Written aside, made durable, then renamed: whoever runs it finds the old one or the new one, whole.
fn install(dir: &Path) -> Result<PathBuf, Error> {
    let fault = |source| Error::Unwritable { dir: dir.into(), source };
    if !fs::metadata(dir).map_err(|source| Error::NoDirectory { dir: dir.into(), source })?.is_dir() {
        let source = io::ErrorKind::NotADirectory.into();
        return Err(Error::NoDirectory { dir: dir.into(), source });
    }
    let path = dir.join(NAME);
    if path.is_dir() {
        return Err(Error::InTheWay { path });
    }
    // A name of its own: another one may be installing at the same time.
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).map_err(|errno| fault(errno.into()))?;
    let aside = dir.join(format!(".leasehold-{:016x}", u64::from_ne_bytes(random)));
    let installed = copy(&aside).and_then(|()| fs::rename(&aside, &path)).and_then(|()| File::open(dir)?.sync_all());
    if let Err(source) = installed {
        let _ = fs::remove_file(&aside);
        return Err(fault(source));
    }
    Ok(path)
}

fn copy(aside: &Path) -> io::Result<()> {
    // Also when this very file is replaced meanwhile.
    let mut own = File::open("/proc/self/exe")?;
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(MODE).open(aside)?;
    io::copy(&mut own, &mut copy)?;
    // Whatever the umask.
    copy.set_permissions(Permissions::from_mode(MODE))?;
    copy.sync_all()
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot install into {}: {source}. Give an existing directory: a volume that this container mounts", dir.display())]
    NoDirectory { dir: PathBuf, source: io::Error },
    #[error(
        "cannot install into {}: {source}. It must be writable by user {}, with room for this program",
        dir.display(),
        rustix::process::geteuid().as_raw()
    )]
    Unwritable { dir: PathBuf, source: io::Error },
    #[error("cannot install {}: a directory of that name is in the way", path.display())]
    InTheWay { path: PathBuf },
}
