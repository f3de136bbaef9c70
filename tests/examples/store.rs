//! The stores that the examples write to, asked by the programs that come with them.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use crate::built;
use crate::support::clock::wait_until;
use crate::support::control_plane::Port;
use crate::support::process::Folder;

#[derive(Clone, Copy)]
pub enum Kind {
    Sqlite,
    /// What its clients write before `//`.
    Postgresql(&'static str),
}

/// A store of one test, with the tables of examples/store.
pub enum Store {
    Sqlite { folder: Folder },
    Postgresql { scheme: &'static str, database: String },
}

/// What an example wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub token: u64,
    /// The pod, and a slash and its own name where one pod has several writers.
    pub writer: String,
    /// Seconds of the store's clock.
    pub at: f64,
}

impl Row {
    pub fn pod(&self) -> &str {
        self.writer.split('/').next().unwrap_or_default()
    }
}

impl Store {
    pub fn new(kind: Kind, name: &str) -> Self {
        let (store, tables) = match kind {
            Kind::Sqlite => {
                built("sqlite");
                (Self::Sqlite { folder: Folder::new("store") }, include_str!("../../examples/store/sqlite.sql"))
            }
            Kind::Postgresql(scheme) => {
                let database = name.replace('-', "_");
                POSTGRESQL.query("postgres", &format!("CREATE DATABASE {database}"));
                (Self::Postgresql { scheme, database }, include_str!("../../examples/store/postgresql.sql"))
            }
        };
        store.query(tables);
        store
    }

    /// What an example takes as STORE.
    pub fn address(&self) -> String {
        match self {
            Self::Sqlite { folder } => folder.join("store.db").display().to_string(),
            Self::Postgresql { scheme, database } => {
                format!("{scheme}//{}/{database}?user=postgres&sslmode=disable", POSTGRESQL.port.address())
            }
        }
    }

    /// What `sql` answers, columns separated by `|`.
    #[track_caller]
    pub fn query(&self, sql: &str) -> String {
        match self {
            Self::Sqlite { folder } => {
                let mut command = Command::new("sqlite3");
                command.args(["-batch", "-bail", "-cmd", ".timeout 10000"]).arg(folder.join("store.db"));
                asked(command, sql)
            }
            Self::Postgresql { database, .. } => POSTGRESQL.query(database, sql),
        }
    }

    /// Its clock, in seconds.
    #[track_caller]
    pub fn now(&self) -> f64 {
        let now = match self {
            Self::Sqlite { .. } => "SELECT (julianday('now') - 2440587.5) * 86400",
            Self::Postgresql { .. } => "SELECT extract(epoch FROM clock_timestamp())",
        };
        self.query(now).trim().parse().expect("a number")
    }

    /// Everything that was written, in its order.
    #[track_caller]
    pub fn rows(&self) -> Vec<Row> {
        let at = match self {
            Self::Sqlite { .. } => "(julianday(at) - 2440587.5) * 86400",
            Self::Postgresql { .. } => "extract(epoch FROM at)",
        };
        let rows = self.query(&format!("SELECT token, {at}, pod FROM work ORDER BY id"));
        let row = |line: &str| {
            let mut columns = line.splitn(3, '|');
            let mut column = || columns.next().expect("three columns");
            let token = column().parse().expect("a token");
            let at = column().parse().expect("a time");
            Row { token, writer: column().to_owned(), at }
        };
        rows.lines().map(row).collect()
    }

    /// An open connection, of a store that has those.
    pub fn session(&self) -> Session {
        let Self::Postgresql { database, .. } = self else { panic!("SQLite has no sessions") };
        let mut command = POSTGRESQL.psql(database);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("psql can be started");
        let input = process.stdin.take();
        Session { process, input }
    }

    /// Waits until so many of its sessions are in that state.
    #[track_caller]
    pub fn wait_for_sessions(&self, what: &str, state: &str, count: usize) {
        let Self::Postgresql { database, .. } = self else { panic!("SQLite has no sessions") };
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND {state}");
        wait_until(what, Duration::from_secs(30), || self.query(&sql).trim() == count.to_string());
    }
}

/// A connection that is open for several statements; ended when dropped.
pub struct Session {
    process: Child,
    input: Option<ChildStdin>,
}

impl Session {
    /// Sends statements, and does not wait for their end.
    pub fn write(&mut self, sql: &str) {
        let input = self.input.as_mut().expect("it is open");
        input.write_all(sql.as_bytes()).and_then(|()| input.write_all(b"\n")).expect("psql reads");
    }

    /// Waits until all that was sent is done.
    #[track_caller]
    pub fn end(mut self) {
        drop(self.input.take());
        let ended = self.process.wait().expect("a child can be waited for");
        assert!(ended.success(), "psql: {ended}");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a program with `input`, and gives what it printed.
#[track_caller]
fn asked(mut command: Command, input: &str) -> String {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the store's own program can be started");
    // It may end before it has read all; its exit says that better.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().expect("a child can be waited for");
    assert!(status.success(), "{command:?} says {} to {input}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

/// A PostgreSQL server for all tests of this process, with one database a test.
static POSTGRESQL: LazyLock<Postgresql> = LazyLock::new(Postgresql::start);

struct Postgresql {
    programs: PathBuf,
    port: Port,
    /// Its end is the server's: it reads a pipe that this process alone holds open. (Killed, a server would leave
    /// its shared memory behind.)
    _keeper: Child,
    _folder: Folder,
}

impl Postgresql {
    fn start() -> Self {
        let programs = built("postgresql");
        let (folder, port) = (Folder::new("postgresql"), Port::reserve());
        let home = folder.join("home");
        std::fs::create_dir(&home).expect("makes a folder");
        // A PostgreSQL server refuses to run as root.
        let other = rustix::process::getuid().is_root().then(|| nobody(&folder, &home));
        let as_other = |mut command: Command| {
            if let Some(id) = other {
                command.uid(id).gid(id);
            }
            command.current_dir(&home).stdin(Stdio::null()).stdout(Stdio::null());
            command
        };
        let mut initdb = Command::new(programs.join("initdb"));
        initdb.args(["--no-sync", "--auth=trust", "--username=postgres", "--locale=C", "--encoding=UTF8"]);
        initdb.arg("--pgdata").arg(home.join("data"));
        let made = as_other(initdb).status().expect("initdb can be started");
        assert!(made.success(), "initdb: {made}");

        let mut keeper = Command::new("sh");
        keeper.args(["-c", r#""$@" & read -r _; kill -QUIT $!; wait"#, "keeper"]).arg(programs.join("postgres"));
        keeper.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"]);
        keeper.arg("-p").arg(port.address().port().to_string()).arg("-D").arg(home.join("data"));
        let log = std::fs::File::create(folder.join("postgresql.log")).expect("makes a file");
        let keeper = as_other(keeper).process_group(0).stdin(Stdio::piped()).stderr(log).spawn();
        let server = Self { programs, port, _keeper: keeper.expect("sh can be started"), _folder: folder };
        wait_until("PostgreSQL to be ready", Duration::from_secs(60), || {
            let ready = server.client("pg_isready", "postgres").stdout(Stdio::null()).status();
            ready.expect("pg_isready can be started").success()
        });
        server
    }

    fn client(&self, program: &str, database: &str) -> Command {
        let address = self.port.address();
        let mut command = Command::new(self.programs.join(program));
        command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string(), "-U", "postgres"]);
        command.args(["-d", database]);
        command
    }

    #[track_caller]
    fn query(&self, database: &str, sql: &str) -> String {
        asked(self.psql(database), sql)
    }

    fn psql(&self, database: &str) -> Command {
        let mut command = self.client("psql", database);
        command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]);
        command
    }
}

/// Gives `home` to the user that owns nothing, who must be able to walk to it.
fn nobody(folder: &Folder, home: &Path) -> u32 {
    const NOBODY: u32 = 65534;
    chown(home, Some(NOBODY), Some(NOBODY)).expect("root may give a folder away");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o711)).expect("its owner may");
    NOBODY
}
