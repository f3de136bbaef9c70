//! The cluster that `tests/node/node.sh up` brought up, as the scenarios see it: its API, its nodes, its daemons.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;

use crate::support::clock;
use crate::support::control_plane::tool_folder;
use crate::support::http::{Answer, Http};

const NODE_SH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/node.sh");
/// Between two looks at an object: each costs the API server something, on the processors that the pods share.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Asks until there is an answer; panics with `what` after `within`.
#[track_caller]
pub fn wait_for<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    clock::wait_for(what, within, || {
        let answer = ask();
        if answer.is_none() {
            thread::sleep(LOOK_EVERY);
        }
        answer
    })
}

/// The cluster of this run.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::find);
    &CLUSTER
}

pub struct Cluster {
    state: PathBuf,
    programs: PathBuf,
    api: SocketAddr,
    tls: Arc<ClientConfig>,
    workers: Mutex<BTreeSet<u8>>,
}

impl Cluster {
    fn find() -> Self {
        let said = node_sh(["env"]);
        assert!(said.status.success(), "no cluster is up: make e2e, or make node first\n{}", error_of(&said));
        let said = text(&said.stdout);
        let (state, programs) = said.trim().split_once('\n').expect("node.sh env prints two lines");
        let state = PathBuf::from(state);
        let kubeconfig = fs::read_to_string(state.join("admin.kubeconfig")).expect("the admin's kubeconfig");
        let server = kubeconfig.split("https://").nth(1).and_then(|rest| rest.split('"').next());
        let address = server.and_then(|address| address.parse().ok()).expect("an address in the kubeconfig");
        Self {
            tls: tls(&state.join("pki")).expect("the admin's certificate"),
            api: SocketAddr::new(address, 443),
            programs: programs.into(),
            state,
            workers: Mutex::default(),
        }
    }

    /// Where a namespace's recorders write.
    pub fn records(&self, namespace: &str) -> PathBuf {
        self.state.join("records").join(namespace)
    }

    /// Adds a line to what `make e2e` prints at its end.
    pub fn report(&self, line: &str) {
        eprintln!("{line}");
        let file = fs::File::options().create(true).append(true).open(self.state.join("measured"));
        file.and_then(|mut file| writeln!(file, "{line}")).expect("the state folder can be written");
    }

    // --- The API ---

    /// kubectl as admin.
    pub fn kubectl<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut kubectl = Command::new(self.programs.join("kubectl"));
        kubectl.args(arguments);
        self.as_admin(kubectl)
    }

    /// Helm as admin.
    pub fn helm<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| tool_folder(&["helm"]));
        let mut helm = Command::new(FOLDER.join("helm"));
        helm.args(arguments);
        self.as_admin(helm)
    }

    /// Any program, with the admin's kubeconfig and nothing else of this one's environment.
    pub fn at_a_workstation(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear();
        self.as_admin(command)
    }

    fn as_admin(&self, mut command: Command) -> Command {
        command.env("KUBECONFIG", self.state.join("admin.kubeconfig")).env("HOME", &self.state).stdin(Stdio::null());
        command
    }

    /// `GET path`; nothing when there is no such object.
    #[track_caller]
    pub fn get(&self, path: &str) -> Option<Value> {
        let answer = self.request("GET", path, &[], b"").unwrap_or_else(|error| panic!("GET {path}: {error}"));
        match answer.status {
            200 => Some(answer.json()),
            404 => None,
            _ => panic!("GET {path}: {answer:?}"),
        }
    }

    /// A merge patch, which must succeed.
    #[track_caller]
    pub fn patch(&self, path: &str, patch: &Value) -> Value {
        let kind = [("Content-Type", "application/merge-patch+json")];
        let answer = self.request("PATCH", path, &kind, patch.to_string().as_bytes());
        let answer = answer.unwrap_or_else(|error| panic!("PATCH {path}: {error}"));
        assert_eq!(answer.status, 200, "PATCH {path}: {answer:?}");
        answer.json()
    }

    /// One request as admin, on a connection that this thread keeps.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Answer> {
        thread_local! { static KEPT: RefCell<Option<Http>> = const { RefCell::new(None) } }
        KEPT.with_borrow_mut(|kept| {
            if let Some(http) = kept
                && let Ok(answer) = http.request(method, path, headers, body)
            {
                return Ok(answer);
            }
            // None yet, or one that the API server has closed meanwhile.
            let fresh = Http::connect_tls(self.api, self.tls.clone())?.with_timeout(Duration::from_secs(10))?;
            kept.insert(fresh).request(method, path, headers, body)
        })
    }

    // --- Nodes ---

    /// A node that is up, by its name: `node1` has the control plane.
    pub fn node(&self, name: &str) -> Node {
        Node { name: name.into(), folder: self.state.join(name) }
    }

    /// One more node, without another pod on it but those that tolerate the taint `leasehold.dev/worker`.
    pub fn worker(&'static self) -> Worker {
        let number = {
            let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
            let free = (2..=24).find(|number| !workers.contains(number)).expect("fewer than 24 workers at once");
            workers.insert(free);
            free
        };
        let worker = Worker { node: self.node(&format!("node{number}")), number, cluster: self };
        worker.tell(&["up"]);
        worker
    }

    /// Loads an OCI archive into every node.
    #[track_caller]
    pub fn load(&self, archive: &Path) {
        let said = node_sh([OsStr::new("load"), archive.as_os_str()]);
        assert!(said.status.success(), "{} could not be loaded: {}", archive.display(), error_of(&said));
    }

    /// The process ids, as the host counts, of a container that runs: the first one is the container's own first.
    ///
    /// `id` is `containerID` of the pod's status. Empty when it has ended.
    pub fn processes(&self, id: &str) -> Vec<Pid> {
        let id = id.trim_start_matches("containerd://");
        let mut processes: Vec<_> = self.cgroups().filter_map(|root| find_folder(&root, id)).flat_map(tasks).collect();
        // A container's first process is number 1 in it, on any node.
        processes.sort_by_key(|process| (number_inside(*process) != Some(1), process.as_raw_nonzero()));
        processes
    }

    /// The cgroup of each node's pods: of any one controller where there are several hierarchies (v1).
    fn cgroups(&self) -> impl Iterator<Item = PathBuf> {
        let root = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];
        let root = root.into_iter().map(Path::new).find(|root| root.join("cgroup.procs").exists());
        let root = root.expect("cgroups are mounted at /sys/fs/cgroup");
        let cluster = fs::read_to_string(self.state.join("cluster")).expect("the cluster's name");
        let name = cluster.split(['=', ' ']).nth(1).expect("name=...").to_owned();
        let entries = fs::read_dir(root).expect("the cgroups").flatten();
        let workers = format!("{name}-n");
        entries.map(|entry| entry.path()).filter(move |path| {
            let own = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            own == name || own.starts_with(&workers)
        })
    }
}

fn find_folder(root: &Path, name: &str) -> Option<PathBuf> {
    let folders = fs::read_dir(root).ok()?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    let folders: Vec<_> = folders.collect();
    let found = folders.iter().find(|path| path.file_name() == Some(OsStr::new(name)));
    found.cloned().or_else(|| folders.iter().find_map(|folder| find_folder(folder, name)))
}

fn tasks(cgroup: PathBuf) -> Vec<Pid> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
}

fn number_inside(process: Pid) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().next_back()?.parse().ok()
}

/// One node.
#[derive(Clone)]
pub struct Node {
    pub name: String,
    folder: PathBuf,
}

impl Node {
    /// Runs a command in the node: its mounts, processes and network, root's rights.
    #[track_caller]
    pub fn run(&self, command: &[&str]) -> Output {
        self.enter(&["-m", "-p", "-n", "-u", "-i"], command)
    }

    fn enter(&self, namespaces: &[&str], command: &[&str]) -> Output {
        let init = fs::read_to_string(self.folder.join("init.pid")).unwrap_or_else(|error| {
            panic!("{} is not up: {error}", self.name);
        });
        Command::new("nsenter")
            .args(["-t", init.trim()])
            .args(namespaces)
            .arg("--")
            .args(command)
            .stdin(Stdio::null())
            .output()
            .expect("nsenter can be started")
    }

    /// Signals one of its daemons (`kubelet`, `containerd`, `kube-apiserver`, ...); killed, it comes back at once.
    #[track_caller]
    pub fn signal(&self, daemon: &str, signal: &str) {
        let process = fs::read_to_string(self.folder.join(format!("run/{daemon}.pid"))).expect("the daemon runs");
        let said = self.run(&["sh", "-c", &format!("kill -{signal} {}", process.trim())]);
        assert!(said.status.success(), "{daemon} on {}: {}", self.name, error_of(&said));
    }

    /// A daemon stands still until the answer is dropped. Its connections stay, and nothing answers.
    pub fn freeze(&self, daemon: &'static str) -> Frozen {
        self.signal(daemon, "STOP");
        Frozen { node: self.clone(), daemon }
    }

    /// Between this pod and the API server everything is lost, in both directions, until the answer is dropped.
    #[track_caller]
    pub fn cut(&self, pod_ip: &str) -> Cut {
        let cut = Cut { node: self.clone(), pod_ip: pod_ip.into() };
        cut.rules("-I");
        cut
    }
}

pub struct Frozen {
    node: Node,
    daemon: &'static str,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.node.signal(self.daemon, "CONT");
    }
}

pub struct Cut {
    node: Node,
    pod_ip: String,
}

impl Cut {
    /// On the node's side of the pod's link: the pod's own kernel must not know why nothing comes.
    #[track_caller]
    fn rules(&self, action: &str) {
        let (from, to) = (self.pod_ip.as_str(), self.pod_ip.as_str());
        let rules = [
            ["-t", "raw", action, "PREROUTING", "-s", from, "-p", "tcp", "--dport", "443", "-j", "DROP"],
            ["-t", "mangle", action, "POSTROUTING", "-d", to, "-p", "tcp", "--sport", "443", "-j", "DROP"],
        ];
        for rule in rules {
            let command: Vec<_> = ["iptables", "-w"].into_iter().chain(rule).collect();
            let said = self.node.enter(&["-n"], &command);
            assert!(said.status.success(), "{command:?} on {}: {}", self.node.name, error_of(&said));
        }
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.rules("-D");
    }
}

/// A node of the scenario's own, taken down with its Node object when it is dropped.
pub struct Worker {
    pub node: Node,
    number: u8,
    cluster: &'static Cluster,
}

impl Worker {
    /// The rest of the cluster and this node do not hear each other.
    pub fn cut(&self) {
        self.tell(&["cut"]);
    }

    pub fn heal(&self) {
        self.tell(&["heal"]);
    }

    /// The machine is gone, with everything on it and without a word.
    pub fn kill(&self) {
        self.tell(&["down"]);
    }

    #[track_caller]
    fn tell(&self, what: &[&str]) {
        let number = self.number.to_string();
        let arguments = ["worker", &number].into_iter().chain(what.iter().copied());
        let said = node_sh(arguments);
        assert!(said.status.success(), "node.sh worker {number} {what:?}: {}", error_of(&said));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = node_sh(["worker", &self.number.to_string(), "down"]);
        let _ = self.cluster.request("DELETE", &format!("/api/v1/nodes/{}", self.node.name), &[], b"");
        self.cluster.workers.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

/// Signals processes that may have ended meanwhile.
pub fn signal_all(processes: &[Pid], signal: Signal) {
    for process in processes {
        let _ = kill_process(*process, signal);
    }
}

fn node_sh<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    Command::new(NODE_SH).args(arguments).stdin(Stdio::null()).output().expect("node.sh can be started")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn error_of(output: &Output) -> String {
    text(&output.stderr)
}

fn tls(pki: &Path) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(pki.join("ca.crt")).map_err(io::Error::other)?;
    roots.add(authority).map_err(io::Error::other)?;
    let certificate = CertificateDer::from_pem_file(pki.join("admin.crt")).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(pki.join("admin.key")).map_err(io::Error::other)?;
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .map_err(io::Error::other)?;
    Ok(Arc::new(tls))
}
