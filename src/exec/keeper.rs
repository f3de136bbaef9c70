//! The keeper: a process between `exec` and CMD that ends one run of CMD in time, whatever becomes of `exec`.
//!
//! It reads the report file itself and does what [`deadlines`](super::deadlines) says. It ends when CMD and all that
//! came of it have ended: by CMD's exit code, or by SIGTERM when the run was over by the rule. When `exec` ends, it
//! kills everything at once. It starts CMD by way of [`start`], so that the kernel kills CMD when the keeper ends too.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitStatus, getpid, getppid, kill_process, kill_process_group, set_child_subreaper,
    set_parent_process_death_signal,
};

use super::deadlines::{Due, Run, last_start};
use super::wake::{Wake, name, say};
use super::{CANNOT_RUN, NOT_FOUND, OWN_FAULT, SIGNALLED, descendants};
use crate::report::file::{self, Verdict};
use crate::time::{self, Clock, Moment, SystemClock};

/// This program, also when its file was replaced meanwhile.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// One run.
pub struct Orders {
    /// The process that gave them: with its end everything ends.
    pub front: i32,
    pub file: PathBuf,
    pub lease: String,
    pub token: u64,
    pub grace: Duration,
    pub command: Vec<OsString>,
}

/// Keeps one run. Gives the exit code, unless it ends by SIGTERM.
pub fn main(orders: Orders) -> u8 {
    // Whoever kills by the name of leasehold means `exec`, and its keeper does the rest.
    let _ = rustix::thread::set_name(c"keeper");
    match keep(&orders) {
        Ok(Some(code)) => code,
        Ok(None) => {
            let _ = signal_hook::low_level::emulate_default_handler(Signal::TERM.as_raw());
            OWN_FAULT
        }
        Err(error) => {
            say(&format!("cannot keep {}: {error}", name(&orders.command)));
            OWN_FAULT
        }
    }
}

/// The exit code of CMD; none when the run was ended by the rule.
fn keep(orders: &Orders) -> io::Result<Option<u8>> {
    set_child_subreaper(Some(getpid()))?;
    let mut wake = Wake::new(&orders.file)?;
    // A signal that wakes and is not passed on.
    set_parent_process_death_signal(Some(Signal::CHILD))?;
    let boot_id = time::boot_id()?;
    let look = || file::read(&orders.file, || SystemClock.boot(), &boot_id);

    // It may have taken long to come here.
    let yes = match look() {
        Ok(Verdict::Leader(yes)) if yes.token == orders.token && yes.lease == orders.lease => yes,
        _ => return Ok(None),
    };
    let not_after = last_start(&yes, orders.grace);
    let mut run = Run::new(yes, orders.grace);
    if !orders.front_lives() {
        return Ok(None);
    }
    let mut cmd = Cmd::start(&orders.command, not_after)?;
    loop {
        let said = look();
        run.hear(SystemClock.boot(), &said);
        cmd.ends_by_rule |= cmd.lives() && run.ends().is_some();
        if !orders.front_lives() {
            cmd.kill_all();
            say(&format!("exec has ended: SIGKILL to {} and all that it started", cmd.name));
            descendants::end_all(&mut wake, |_, _| {});
            return Ok(None);
        }
        for signal in wake.signals() {
            cmd.pass_on(signal);
        }
        match run.due(SystemClock.boot()) {
            Due::Nothing => {}
            Due::Terminate => cmd.terminate(run.ends().unwrap_or_default()),
            Due::Kill => {
                cmd.kill_all();
                let why = run.ends().unwrap_or_default();
                say(&format!("{}: {why}, and its time is over: SIGKILL to all of it", cmd.name));
                descendants::end_all(&mut wake, |child, status| cmd.ended(child, status));
                return Ok(cmd.outcome());
            }
        }
        if !descendants::reap(|child, status| cmd.ended(child, status)) {
            return Ok(cmd.outcome());
        }
        if !cmd.lives() {
            run.abandoned(SystemClock.boot());
        }
        wake.until(run.next());
    }
}

impl Orders {
    fn front_lives(&self) -> bool {
        getppid().is_some_and(|parent| parent.as_raw_nonzero().get() == self.front)
    }
}

/// CMD, as its parent sees it.
struct Cmd {
    name: String,
    /// None when it has ended.
    process: Option<Pid>,
    code: u8,
    /// It was told to end because the run is over.
    ends_by_rule: bool,
    /// Somebody asked for its end.
    asked_to_end: bool,
    told: bool,
    rest_told: bool,
}

impl Cmd {
    fn start(command: &[OsString], not_after: Moment) -> io::Result<Self> {
        let child = Command::new(OWN_PROGRAM)
            .arg0("leasehold")
            .args(["exec-start", &getpid().as_raw_nonzero().to_string(), &not_after.as_nanos().to_string(), "--"])
            .args(command)
            // Signals from a terminal, or to the whole group of CMD, are not the keeper's.
            .process_group(0)
            .stdin(Stdio::inherit())
            .spawn()?;
        Ok(Cmd {
            name: name(command),
            process: Some(Pid::from_child(&child)),
            code: 0,
            ends_by_rule: false,
            asked_to_end: false,
            told: false,
            rest_told: false,
        })
    }

    fn lives(&self) -> bool {
        self.process.is_some()
    }

    /// A child has ended or stopped.
    fn ended(&mut self, child: Pid, status: WaitStatus) {
        if self.process == Some(child)
            && let Some(code) = exit_code(status)
        {
            (self.process, self.code) = (None, code);
        }
    }

    /// Whoever asked for its end wants to know how it ended, also when it was to end anyway.
    fn outcome(&self) -> Option<u8> {
        (!self.ends_by_rule || self.asked_to_end).then_some(self.code)
    }

    fn pass_on(&mut self, signal: Signal) {
        let Some(process) = self.process else { return };
        // A child that was not waited for keeps its id, and its group's.
        let _ = match signal {
            Signal::CHILD => return,
            // A terminal stops a group, and so does whoever is stopped in its place.
            Signal::TSTP | Signal::CONT => kill_process_group(process, signal),
            _ => kill_process(process, signal),
        };
        self.asked_to_end |= ENDS.contains(&signal);
    }

    /// SIGKILL, first to its group: that is most of it, found without looking.
    fn kill_all(&self) {
        if let Some(process) = self.process {
            let _ = kill_process_group(process, Signal::KILL);
        }
        descendants::signal_all(Signal::KILL);
    }

    /// SIGTERM, once to CMD and, when that has ended, once to what is left.
    fn terminate(&mut self, why: &str) {
        match self.process {
            Some(process) if !self.told => {
                self.told = true;
                let _ = kill_process(process, Signal::TERM);
                // Who is stopped hears no SIGTERM.
                let _ = kill_process_group(process, Signal::CONT);
                say(&format!("{}: {why}: SIGTERM", self.name));
            }
            None if !self.rest_told => {
                self.rest_told = true;
                let left = descendants::signal_all(Signal::TERM).len();
                descendants::signal_all(Signal::CONT);
                say(&format!("{} has ended: SIGTERM to {left} processes that it started", self.name));
            }
            _ => {}
        }
    }
}

/// Signals that ask for the end of whoever gets them.
pub const ENDS: [Signal; 3] = [Signal::TERM, Signal::INT, Signal::QUIT];

/// As shells have it. None while it has not ended.
pub fn exit_code(status: WaitStatus) -> Option<u8> {
    let signal = || status.terminating_signal().map(|signal| i32::from(SIGNALLED) + signal);
    status.exit_status().or_else(signal).and_then(|code| u8::try_from(code).ok())
}

/// Becomes CMD, unless it is too late. Gives an exit code when it could not.
pub fn start(keeper: i32, not_after: Moment, command: &[OsString]) -> u8 {
    let Some((program, arguments)) = command.split_first() else { return OWN_FAULT };
    // It stays with what this process becomes, unless that changes its user.
    if let Err(errno) = set_parent_process_death_signal(Some(Signal::KILL)) {
        say(&format!("cannot tie {} to its keeper: {}", name(command), io::Error::from(errno)));
        return OWN_FAULT;
    }
    let keeper_lives = getppid().is_some_and(|parent| parent.as_raw_nonzero().get() == keeper);
    if !keeper_lives || SystemClock.boot() >= not_after {
        return SIGNALLED + 15;
    }
    let error = Command::new(program).args(arguments).exec();
    say(&format!("cannot start {}: {error}", name(command)));
    if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN }
}
