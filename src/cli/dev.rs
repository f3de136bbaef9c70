//! `leasehold dev`: the whole of it on one machine, without a cluster.
//!
//! An embedded Lease API runs in this process, and sidecars that contend run as processes of their own, so that one
//! can be killed and the fail-over watched. What is killed is started again as a new pod would be: under another uid
//! and with nothing remembered. Everything lives in one temporary folder, and nothing is left when this ends.

mod view;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{EX_USAGE, duration};
use crate::devapi;
use crate::sidecar;
use crate::time::{Clock, Moment, SystemClock};
use view::View;

/// How long a sidecar that was asked to end may take: an answer TTL, and a write.
const GRACE: Duration = Duration::from_secs(3);
/// A pod is not back at once either.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many sidecars contend; 1 is always the leader, as an app's own tests want it
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100), env = "LEASEHOLD_DEV_REPLICAS", hide_env = true)]
    replicas: u16,
    /// The first sidecar's address; the others listen on the ports that follow
    #[arg(long, default_value = "localhost:4040", value_name = "ADDR", env = "LEASEHOLD_DEV_LISTEN", hide_env = true)]
    listen: String,
    /// The Lease API's address
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR", env = "LEASEHOLD_DEV_API_LISTEN", hide_env = true)]
    api_listen: SocketAddr,
    /// Only the Lease API, and a kubeconfig for it
    #[arg(long)]
    api_only: bool,
    /// The lease that they contend for
    #[arg(long, default_value = "example", value_name = "NAME", env = "LEASEHOLD_DEV_LEASE", hide_env = true)]
    lease: String,
    /// Short, so that a fail-over is soon to be seen
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = duration, env = "LEASEHOLD_DEV_LEASE_DURATION", hide_env = true)]
    lease_duration: Duration,
}

pub fn main(args: Args) -> ExitCode {
    match super::runtime().block_on(dev(args)) {
        Ok(code) => code,
        Err(fault) => {
            eprintln!("leasehold: {fault}");
            ExitCode::from(EX_USAGE)
        }
    }
}

async fn dev(args: Args) -> Result<ExitCode, String> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| format!("cannot take signals: {error}"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| format!("cannot take signals: {error}"))?;
    let listener = TcpListener::bind(args.api_listen).await.map_err(|error| {
        format!("the Lease API cannot listen on {}: {error}; choose another --api-listen", args.api_listen)
    })?;
    let address = listener.local_addr().map_err(|error| format!("the Lease API has no address: {error}"))?;
    let folder = Folder::create()?;
    let kubeconfig = folder.path.join("kubeconfig");
    fs::write(&kubeconfig, devapi::kubeconfig(address))
        .map_err(|error| format!("cannot write {}: {error}", kubeconfig.display()))?;
    let api = tokio::spawn(devapi::Server::new(|| SystemClock.wall()).serve(listener, std::future::pending()));
    println!("Lease API  http://{address}");
    println!("kubectl    kubectl --kubeconfig {} get leases", kubeconfig.display());
    if args.api_only {
        println!("Ctrl-C ends it.");
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        api.abort();
        return Ok(ExitCode::SUCCESS);
    }
    let mut pods = Pods::start(&args, &folder.path, &kubeconfig)?;
    let mut view = View::new(&args.lease);
    let code = loop {
        tokio::select! {
            _ = interrupt.recv() => break ExitCode::SUCCESS,
            _ = terminate.recv() => break ExitCode::SUCCESS,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if let Err(fault) = pods.keep_running() {
            eprintln!("leasehold: {fault}");
            break ExitCode::from(EX_USAGE);
        }
        view.show(&pods.list).await;
    };
    pods.end().await;
    api.abort();
    Ok(code)
}

/// A temporary folder, gone with this value.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn create() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("leasehold-dev-{}", sidecar::random_hex()));
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&path)
            .map_err(|error| format!("cannot make the folder {}: {error}; set TMPDIR", path.display()))?;
        Ok(Folder { path })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// One sidecar, as it would be one pod's.
struct Pod {
    name: String,
    address: String,
    folder: PathBuf,
    process: Option<Child>,
    restart_at: Moment,
}

struct Pods {
    list: Vec<Pod>,
    arguments: Vec<String>,
}

impl Pods {
    fn start(args: &Args, folder: &Path, kubeconfig: &Path) -> Result<Self, String> {
        let fault = || format!("--listen {:?} is no address and port, such as localhost:4040", args.listen);
        let (host, port) = args.listen.rsplit_once(':').ok_or_else(fault)?;
        let first: u16 = port.parse().map_err(|_| fault())?;
        let arguments = [
            "run",
            "--lease",
            &args.lease,
            "--namespace=default",
            "--probe-listen=off",
            "--end-with-parent",
            &format!("--lease-duration={}ms", args.lease_duration.as_millis()),
            &format!("--kubeconfig={}", kubeconfig.display()),
        ]
        .map(String::from)
        .to_vec();
        let mut pods = Pods { list: Vec::new(), arguments };
        for index in 0..args.replicas {
            let name = format!("dev-{}", index + 1);
            let port = if first == 0 { 0 } else { first.checked_add(index).ok_or_else(fault)? };
            let folder = folder.join(&name);
            fs::create_dir(&folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
            let mut pod =
                Pod { name, address: format!("{host}:{port}"), folder, process: None, restart_at: Moment::BOOT };
            pod.start(&pods.arguments)?;
            pods.list.push(pod);
        }
        Ok(pods)
    }

    /// Starts again what was killed. One that cannot start at all, because of its port or its flags, ends it all.
    fn keep_running(&mut self) -> Result<(), String> {
        let now = SystemClock.boot();
        for pod in &mut self.list {
            match &mut pod.process {
                None if now >= pod.restart_at => pod.start(&self.arguments)?,
                None => {}
                Some(process) => {
                    let Ok(Some(status)) = process.try_wait() else { continue };
                    if status.code() == Some(i32::from(EX_USAGE)) {
                        return Err(format!("{} cannot run:\n{}", pod.name, pod.log()));
                    }
                    pod.process = None;
                    pod.restart_at = now + RESTART_PAUSE;
                }
            }
        }
        Ok(())
    }

    /// Asks all to end, and ends those that do not.
    async fn end(&mut self) {
        for pod in &self.list {
            if let Some(process) = &pod.process
                && let Some(pid) = rustix::process::Pid::from_raw(process.id().cast_signed())
            {
                // One that has just ended needs no asking.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        let deadline = SystemClock.boot() + GRACE;
        for pod in &mut self.list {
            let Some(mut process) = pod.process.take() else { continue };
            while SystemClock.boot() < deadline && matches!(process.try_wait(), Ok(None)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Pod {
    fn start(&mut self, arguments: &[String]) -> Result<(), String> {
        let fault = |error| format!("cannot start a sidecar for {}: {error}", self.name);
        let program = std::env::current_exe().map_err(fault)?;
        let log = fs::File::create(self.folder.join("log")).map_err(fault)?;
        let state = self.folder.join("state");
        let process = Command::new(program)
            .args(arguments)
            .arg(format!("--listen={}", self.address))
            .arg(format!("--pod-name={}", self.name))
            .arg(format!("--report-dir={}", self.folder.join("report").display()))
            .arg(format!("--state-dir={}", state.display()))
            // A pod that comes back is another pod.
            .env("POD_UID", sidecar::random_hex())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C on the terminal is for this process, which then ends the others in order.
            .process_group(0)
            .spawn()
            .map_err(fault)?;
        self.process = Some(process);
        Ok(())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}
