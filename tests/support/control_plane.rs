//! A real control plane: etcd and kube-apiserver, built by `tests/control-plane/tools.sh`.
//!
//! Most tests share one ([`shared`]) and take a namespace each; a test that stops, restarts or
//! restores something starts its own ([`ControlPlane::start`], some seconds). No controllers and
//! no scheduler run: nothing collects garbage, and a Pod is an object only.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};
use rustix::process::Signal;
use rustix::system::sethostname;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};

use super::clock::{self, wait_for};
use super::http::{Answer, Http};
use super::process::{Folder, Process};

/// May do everything (group `system:masters`).
pub const ADMIN: &str = "admin";
/// May do nothing until [`ControlPlane::allow`] says so.
pub const SIDECAR: &str = "sidecar";
/// The same, for a test that needs two.
pub const OTHER: &str = "other";

/// An API server that is told something wrong ends before; later, its own first requests took too long.
const GIVES_UP_AFTER: Duration = Duration::from_secs(20);

/// The control plane that the tests of this file share. Stop nothing in it.
pub fn shared() -> &'static ControlPlane {
    static SHARED: LazyLock<ControlPlane> = LazyLock::new(ControlPlane::start);
    &SHARED
}

/// etcd, a kube-apiserver or two on it, and ways to disturb them.
pub struct ControlPlane {
    // The processes first: they end before their folder is removed.
    etcd: Mutex<Option<Process>>,
    apiservers: Vec<ApiServer>,
    apiserver_flags: Vec<String>,
    own_hosts: bool,
    etcd_client: Port,
    etcd_peer: Port,
    tools: PathBuf,
    names: Mutex<HashSet<String>>,
    files: AtomicU32,
    folder: Folder,
}

/// One of the API servers. They share etcd, certificate and keys: any answers for any.
struct ApiServer {
    process: Mutex<Option<Process>>,
    secure: Port,
}

/// A copy of etcd's data.
pub struct Snapshot {
    folder: Folder,
}

impl ControlPlane {
    /// Starts one and waits until it is ready.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more kube-apiserver flags; a flag given here wins.
    pub fn start_with(apiserver_flags: &[&str]) -> Self {
        Self::start_servers(1, apiserver_flags, false)
    }

    /// The same with two API servers, numbered 0 and 1.
    pub fn start_pair() -> Self {
        Self::start_servers(2, &[], false)
    }

    /// The same, each on a host of its own by its name, and so with an identity of its own. Needs root.
    pub fn start_pair_on_two_hosts() -> Self {
        Self::start_servers(2, &[], true)
    }

    fn start_servers(count: usize, apiserver_flags: &[&str], own_hosts: bool) -> Self {
        let began = clock::now();
        let tools = tools_folder();
        let folder = Folder::new("control-plane");
        write_keys(&folder.join("service-account.key"), &folder.join("service-account.pub"));
        fs::write(folder.join("tokens.csv"), tokens()).expect("writes the tokens");
        let control_plane = Self {
            etcd: Mutex::new(None),
            apiservers: (0..count).map(|_| ApiServer { process: Mutex::new(None), secure: Port::reserve() }).collect(),
            apiserver_flags: apiserver_flags.iter().map(|flag| flag.to_string()).collect(),
            own_hosts,
            etcd_client: Port::reserve(),
            etcd_peer: Port::reserve(),
            tools,
            names: Mutex::default(),
            files: AtomicU32::new(0),
            folder,
        };
        control_plane.start_etcd();
        for server in 0..count {
            control_plane.start_server(server);
        }
        eprintln!(
            "control plane: ready at {} after {:.1} s",
            control_plane.address(),
            (clock::now() - began).as_secs_f32()
        );
        control_plane
    }

    /// Where the (first) API server listens.
    pub fn address(&self) -> SocketAddr {
        self.address_of(0)
    }

    /// Where that API server listens.
    pub fn address_of(&self, server: usize) -> SocketAddr {
        self.apiservers[server].secure.address()
    }

    /// Its CA certificate, as PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("certificates/apiserver.crt")
    }

    // --- Clients ---

    /// An admin's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_for(ADMIN, None)
    }

    /// A kubeconfig for one of [`ADMIN`], [`SIDECAR`] and [`OTHER`], through `server` (a
    /// [`super::proxy::Proxy`]'s address) or directly. The certificate holds for every port.
    pub fn kubeconfig_for(&self, user: &str, server: Option<SocketAddr>) -> PathBuf {
        self.write_kubeconfig(&token_of(user), server)
    }

    /// A kubeconfig for a new service account, with a token from the TokenRequest API. Its user is
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub fn kubeconfig_for_service_account(&self, namespace: &str, name: &str, server: Option<SocketAddr>) -> PathBuf {
        self.run_kubectl(&["create", "serviceaccount", name, "-n", namespace]);
        let token = self.run_kubectl(&["create", "token", name, "-n", namespace]);
        self.write_kubeconfig(token.trim(), server)
    }

    fn write_kubeconfig(&self, token: &str, server: Option<SocketAddr>) -> PathBuf {
        let server = server.unwrap_or_else(|| self.address());
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{server}"),
                "certificate-authority": self.ca_file(),
            }}],
            "users": [{"name": "test", "user": {"token": token}}],
        });
        self.write_file("kubeconfig", &kubeconfig.to_string())
    }

    /// An admin's kubeconfig with what `edit` makes of it.
    pub fn kubeconfig_edited(&self, edit: impl FnOnce(&mut Value)) -> PathBuf {
        let text = fs::read_to_string(self.kubeconfig()).expect("was just written");
        // JSON is YAML.
        let mut kubeconfig = serde_json::from_str(&text).expect("is JSON");
        edit(&mut kubeconfig);
        self.write_file("kubeconfig", &kubeconfig.to_string())
    }

    /// A new file that goes with the control plane.
    pub fn write_file(&self, name: &str, text: &str) -> PathBuf {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(&format!("{name}-{number}"));
        fs::write(&path, text).expect("writes a file");
        path
    }

    /// Runs kubectl as admin.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        Command::new(self.tools.join("kubectl"))
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .args(arguments)
            .env("HOME", self.folder.path())
            .stdin(Stdio::null())
            .output()
            .expect("kubectl can be started")
    }

    /// Runs kubectl as admin, which must succeed; gives its standard output.
    #[track_caller]
    pub fn run_kubectl(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments);
        assert!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A connection to the API server as admin: quicker than kubectl, and no retries.
    pub fn connect(&self) -> io::Result<Http> {
        self.connect_as(ADMIN)
    }

    /// The same as another user.
    pub fn connect_as(&self, user: &str) -> io::Result<Http> {
        self.connect_with_token(&token_of(user))
    }

    /// [`Self::connect`], to that API server.
    pub fn connect_to_server(&self, server: usize) -> io::Result<Http> {
        self.connect_to(self.address_of(server), &token_of(ADMIN))
    }

    fn connect_with_token(&self, token: &str) -> io::Result<Http> {
        self.connect_to(self.address(), token)
    }

    fn connect_to(&self, server: SocketAddr, token: &str) -> io::Result<Http> {
        let http = Http::connect_tls(server, self.tls()?)?;
        http.with_header("Authorization", &format!("Bearer {token}")).with_timeout(Duration::from_secs(10))
    }

    /// What makes such connections for another thread, also while the API server is away.
    pub fn connector(&self) -> impl Fn() -> io::Result<Http> + Send + use<> {
        let (address, tls, token) = (self.address(), self.tls(), token_of(ADMIN));
        let tls = tls.expect("its certificate can be read");
        move || {
            let http =
                Http::connect_tls(address, tls.clone())?.with_header("Authorization", &format!("Bearer {token}"));
            http.with_timeout(Duration::from_secs(10))
        }
    }

    /// One request as admin on a connection of its own.
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Answer> {
        self.api_with_token(&token_of(ADMIN), method, path, body)
    }

    /// The same as who bears `token`.
    pub fn api_with_token(&self, token: &str, method: &str, path: &str, body: Option<&Value>) -> io::Result<Answer> {
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = body.map(Value::to_string).unwrap_or_default();
        let headers = [("Content-Type", kind), ("Accept", "application/json")];
        self.connect_with_token(token)?.request(method, path, &headers, body.as_bytes())
    }

    /// A Lease as it is now, if it is there.
    #[track_caller]
    pub fn lease(&self, namespace: &str, name: &str) -> Option<Value> {
        let answer = self.api("GET", &lease_path(namespace, name), None).expect("the API server answers");
        match answer.status {
            200 => Some(answer.json()),
            404 => None,
            _ => panic!("{answer:?}"),
        }
    }

    /// Changes a Lease by a JSON merge patch, as `kubectl edit` would.
    #[track_caller]
    pub fn patch_lease(&self, namespace: &str, name: &str, patch: &Value) -> Value {
        let answer = self.api("PATCH", &lease_path(namespace, name), Some(patch)).expect("the API server answers");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    fn tls(&self) -> io::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(self.ca_file()).map_err(io::Error::other)? {
            let certificate = certificate.map_err(io::Error::other)?;
            roots.add(certificate).map_err(io::Error::other)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(tls))
    }

    // --- Objects ---

    /// Creates a namespace whose name begins with `prefix`; gives its name.
    #[track_caller]
    pub fn namespace(&self, prefix: &str) -> String {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let number = names.len();
        let name = format!("{prefix}-{number}");
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let answer = self.api("POST", "/api/v1/namespaces", Some(&body)).expect("the API server answers");
        assert_eq!(answer.status, 201, "{answer:?}");
        names.insert(name.clone());
        name
    }

    /// Allows `user` (one of the constants, or a service account's user name) in `namespace` what
    /// `rules` say: an array of PolicyRules. Waits until the API server knows it.
    #[track_caller]
    pub fn allow(&self, namespace: &str, user: &str, rules: Value) {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let name = format!("allowed-{number}");
        let base = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
        let rbac = "rbac.authorization.k8s.io";
        let role = json!({
            "apiVersion": format!("{rbac}/v1"),
            "kind": "Role",
            "metadata": {"name": name},
            "rules": rules,
        });
        let binding = json!({
            "apiVersion": format!("{rbac}/v1"),
            "kind": "RoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [{"apiGroup": rbac, "kind": "User", "name": user}],
        });
        for (kind, object) in [("roles", &role), ("rolebindings", &binding)] {
            let answer = self.api("POST", &format!("{base}/{kind}"), Some(object)).expect("the API server answers");
            assert_eq!(answer.status, 201, "{answer:?}");
        }
        // Authorization reads a cache: it lags by some milliseconds.
        let Some(rule) = rules.get(0) else { return };
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": {
                "namespace": namespace,
                "verb": rule["verbs"][0],
                "group": rule["apiGroups"][0],
                "resource": rule["resources"][0],
                "name": rule["resourceNames"][0],
            }},
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        wait_for("a role to count", Duration::from_secs(10), || {
            let answer = self.api("POST", path, Some(&review)).ok()?;
            (answer.json()["status"]["allowed"] == true).then_some(())
        });
    }

    /// Allows `user` all that a sidecar of this lease needs, and no more.
    #[track_caller]
    pub fn allow_lease(&self, namespace: &str, user: &str, lease: &str) {
        self.allow(
            namespace,
            user,
            json!([{
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "resourceNames": [lease],
                "verbs": ["get", "list", "watch", "update", "create"],
            }]),
        );
    }

    /// A metric of the API server, as `apiserver_request_total`: the sum of the series whose line
    /// holds every one of `parts`.
    pub fn metric(&self, name: &str, parts: &[&str]) -> f64 {
        let answer = self.api("GET", "/metrics", None).expect("metrics answer");
        let text = answer.text();
        let of_name =
            text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        of_name
            .filter(|line| parts.iter().all(|part| line.contains(part)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    // --- Disturbances: on a control plane of the test's own ---

    /// The API server stands still: its connections stay, nothing answers (SIGSTOP).
    pub fn stop_apiserver(&self) {
        self.stop_server(0);
    }

    /// It goes on (SIGCONT).
    pub fn cont_apiserver(&self) {
        self.cont_server(0);
    }

    /// Kills it: its connections break, and new ones are refused.
    pub fn kill_apiserver(&self) {
        self.kill_server(0);
    }

    /// Starts it after [`Self::kill_apiserver`], and waits until it is ready.
    pub fn start_apiserver(&self) {
        self.start_server(0);
    }

    /// Kills and starts it.
    pub fn restart_apiserver(&self) {
        self.kill_apiserver();
        self.start_apiserver();
    }

    /// [`Self::stop_apiserver`], of that one.
    pub fn stop_server(&self, server: usize) {
        self.signal_server(server, Signal::STOP);
    }

    /// [`Self::cont_apiserver`], of that one.
    pub fn cont_server(&self, server: usize) {
        self.signal_server(server, Signal::CONT);
    }

    /// [`Self::kill_apiserver`], of that one.
    pub fn kill_server(&self, server: usize) {
        lock(&self.apiservers[server].process).take();
    }

    /// [`Self::start_apiserver`], of that one. On a machine that is short of time an API server gives up by itself;
    /// then another is started, as a kubelet would.
    pub fn start_server(&self, server: usize) {
        let mut slot = lock(&self.apiservers[server].process);
        let log = self.apiserver_log(server);
        let started = clock::now();
        let apiserver = slot.insert(self.spawn(self.apiserver_command(server), &log));
        wait_for("kube-apiserver", Duration::from_secs(600), || {
            if apiserver.ended().is_some() {
                if clock::now() - started < GIVES_UP_AFTER {
                    panic!("kube-apiserver ended:\n{}", tail(&log));
                }
                *apiserver = self.spawn(self.apiserver_command(server), &log);
            }
            let answer = self.connect_to_server(server).and_then(|mut http| http.get("/readyz"));
            let ready = answer.is_ok_and(|answer| answer.status == 200);
            if !ready {
                std::thread::sleep(Duration::from_millis(20));
            }
            ready.then_some(())
        });
    }

    /// The last lines of that API server's log, if it has ended without being killed here.
    pub fn server_ended(&self, server: usize) -> Option<String> {
        let ended = lock(&self.apiservers[server].process).as_mut()?.ended()?;
        Some(format!("{ended}:\n{}", tail(&self.apiserver_log(server))))
    }

    fn signal_server(&self, server: usize, signal: Signal) {
        let apiserver = lock(&self.apiservers[server].process);
        apiserver.as_ref().expect("the API server runs").signal(signal);
    }

    fn apiserver_log(&self, server: usize) -> PathBuf {
        let name = if server == 0 { "kube-apiserver.log".into() } else { format!("kube-apiserver-{server}.log") };
        self.folder.join(&name)
    }

    /// etcd stands still (SIGSTOP): no API server can read or write.
    pub fn stop_etcd(&self) {
        self.signal_etcd(Signal::STOP);
    }

    /// It goes on (SIGCONT).
    pub fn cont_etcd(&self) {
        self.signal_etcd(Signal::CONT);
    }

    fn signal_etcd(&self, signal: Signal) {
        lock(&self.etcd).as_ref().expect("etcd runs").signal(signal);
    }

    /// Kills it: what it acknowledged stays.
    pub fn kill_etcd(&self) {
        lock(&self.etcd).take();
    }

    /// Starts it after [`Self::kill_etcd`], and waits until it is well.
    pub fn restart_etcd(&self) {
        self.kill_etcd();
        self.start_etcd();
    }

    /// Forgets every revision but the present one: a watch from an older one is 410, also in etcd.
    pub fn compact_etcd(&self) -> io::Result<()> {
        let ask = |path: &str, body: &Value| {
            let http = Http::connect(self.etcd_client.address())?;
            let answer = http.with_timeout(Duration::from_secs(5))?.post(path, body)?;
            match answer.status {
                200 => Ok(answer.json()),
                _ => Err(io::Error::other(format!("{answer:?}"))),
            }
        };
        // The gateway's numbers are strings, and the key is base64 of a zero byte: none.
        let present = ask("/v3/kv/range", &json!({"key": "AA=="}))?["header"]["revision"].clone();
        ask("/v3/kv/compaction", &json!({"revision": present, "physical": true})).map(drop)
    }

    /// Copies etcd's data, which stands still for some milliseconds: what it would find had it
    /// been killed now.
    pub fn snapshot(&self) -> Snapshot {
        let snapshot = Snapshot { folder: Folder::new("snapshot") };
        let etcd = lock(&self.etcd);
        let etcd = etcd.as_ref().expect("etcd runs");
        etcd.signal(Signal::STOP);
        copy_folder(&self.folder.join("etcd"), &snapshot.folder.join("etcd"));
        etcd.signal(Signal::CONT);
        snapshot
    }

    /// Puts a snapshot back as the manual says to: API server and etcd stop, both start on the
    /// older data. What was written since is gone, and resourceVersions count from there again.
    pub fn restore(&self, snapshot: &Snapshot) {
        (0..self.apiservers.len()).for_each(|server| self.kill_server(server));
        self.kill_etcd();
        let data = self.folder.join("etcd");
        fs::remove_dir_all(&data).expect("removes etcd's data");
        copy_folder(&snapshot.folder.join("etcd"), &data);
        self.start_etcd();
        (0..self.apiservers.len()).for_each(|server| self.start_server(server));
    }

    // --- The processes ---

    fn start_etcd(&self) {
        let mut slot = lock(&self.etcd);
        let log = self.folder.join("etcd.log");
        *slot = Some(self.spawn(self.etcd_command(), &log));
        let etcd = slot.as_mut().expect("was just started");
        wait_for("etcd", Duration::from_secs(30), || {
            if etcd.ended().is_some() {
                panic!("etcd ended:\n{}", tail(&log));
            }
            let health = Http::connect(self.etcd_client.address())
                .and_then(|http| http.with_timeout(Duration::from_secs(2))?.get("/health"));
            health.ok().filter(|answer| answer.status == 200)
        });
    }

    fn etcd_command(&self) -> Command {
        let client = format!("http://{}", self.etcd_client.address());
        let peer = format!("http://{}", self.etcd_peer.address());
        let mut etcd = Command::new(self.tools.join("etcd"));
        etcd.arg("--data-dir")
            .arg(self.folder.join("etcd"))
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            // The machine does not crash in a test.
            .arg("--unsafe-no-fsync")
            .arg("--log-level=warn");
        etcd
    }

    fn apiserver_command(&self, server: usize) -> Command {
        let address = self.address_of(server);
        let mut apiserver = Command::new(self.tools.join("kube-apiserver"));
        apiserver
            .arg(format!("--etcd-servers=http://{}", self.etcd_client.address()))
            .arg("--bind-address=127.0.0.1")
            .arg("--advertise-address=127.0.0.1")
            .arg(format!("--secure-port={}", address.port()))
            // It makes a certificate of its own there, and keeps it over a restart.
            .arg("--cert-dir")
            .arg(self.folder.join("certificates"))
            .arg("--token-auth-file")
            .arg(self.folder.join("tokens.csv"))
            .arg("--authorization-mode=RBAC")
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg("--service-account-key-file")
            .arg(self.folder.join("service-account.pub"))
            .arg("--service-account-signing-key-file")
            .arg(self.folder.join("service-account.key"))
            .arg("--service-cluster-ip-range=10.0.0.0/24")
            // No Service `kubernetes` with a loopback address.
            .arg("--endpoint-reconciler-type=none")
            .args(&self.apiserver_flags);
        // Pods are accepted without the controllers that would make their accounts. A list given twice would be joined.
        if !self.apiserver_flags.iter().any(|flag| flag.starts_with("--disable-admission-plugins")) {
            apiserver.arg("--disable-admission-plugins=ServiceAccount");
        }
        if self.own_hosts {
            // SAFETY: two system calls, of a process with one thread.
            unsafe {
                apiserver.pre_exec(move || {
                    unshare_unsafe(UnshareFlags::NEWUTS)?;
                    Ok(sethostname(Self::host_of(server).as_bytes())?)
                });
            }
        }
        apiserver
    }

    /// The name of that API server's host, where each has its own.
    pub fn host_of(server: usize) -> &'static str {
        ["host-0", "host-1"][server]
    }

    fn spawn(&self, mut command: Command, log: &Path) -> Process {
        let log = fs::File::options().create(true).append(true).open(log).expect("opens a log");
        command
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log);
        Process::start(command).expect("a tool can be started")
    }
}

/// A port that nothing else gets while this lives: its socket is bound but does not listen, which
/// lets a server with SO_REUSEADDR (Go's and Rust's all have it) listen there, again and again.
pub struct Port {
    _socket: OwnedFd,
    address: SocketAddr,
}

impl Port {
    /// A free port of 127.0.0.1, chosen by the kernel.
    pub fn reserve() -> Self {
        let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
        // Close-on-exec: a child must not keep it.
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).expect("a socket");
        sockopt::set_socket_reuseaddr(&socket, true).expect("SO_REUSEADDR");
        bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
        let address = getsockname(&socket).expect("a bound socket has an address");
        let address = address.try_into().expect("an IPv4 address");
        Self { _socket: socket, address }
    }

    /// Where to listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// The folder of `tool`, built if need be (which takes minutes, once, and says so).
pub fn tool_folder(tools: &[&str]) -> PathBuf {
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/control-plane/tools.sh"))
        .args(tools)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("tools.sh can be started");
    assert!(output.status.success(), "tools.sh failed; see above");
    let folder = String::from_utf8(output.stdout).expect("a path");
    PathBuf::from(folder.trim())
}

fn tools_folder() -> PathBuf {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| tool_folder(&[]));
    FOLDER.clone()
}

fn tokens() -> String {
    let line = |user: &str, groups: &str| format!("{},{user},{user}{groups}\n", token_of(user));
    line(ADMIN, ",\"system:masters\"") + &line(SIDECAR, "") + &line(OTHER, "")
}

fn token_of(user: &str) -> String {
    format!("token-of-{user}")
}

fn lease_path(namespace: &str, name: &str) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}")
}

/// Writes a new pair of keys for service account tokens.
fn write_keys(private: &Path, public: &Path) {
    // SubjectPublicKeyInfo of a P-256 key (RFC 5480): all but the point itself.
    const PUBLIC_KEY_HEAD: &[u8] =
        b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
    let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
    let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("the kernel gives bytes");
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).expect("a new key");
    let point = [PUBLIC_KEY_HEAD, pair.public_key().as_ref()].concat();
    fs::write(private, pem("PRIVATE KEY", key.as_ref())).expect("writes a key");
    fs::write(public, pem("PUBLIC KEY", &point)).expect("writes a key");
}

fn pem(label: &str, bytes: &[u8]) -> String {
    let body = base64(bytes);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= group.len() { digit.into() } else { '=' });
        }
    }
    text
}

fn copy_folder(from: &Path, to: &Path) {
    // cp keeps the holes of etcd's preallocated files.
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.expect("cp can be started").success());
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
