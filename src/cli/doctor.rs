//! `leasehold doctor`: looks at all that a sidecar needs, from its own container, from another pod or from a
//! workstation.
//!
//! It takes the flags of `run` where they matter. In the sidecar's container process 1 is the sidecar: what its
//! command line says counts, then, where no flag is given here. The environment counts as it does for `run`, for a
//! process that is started in a container has that of the container.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde::Serialize;

use super::run::{self, Switch};
use super::{Cli, Command, EX_USAGE, duration};
use crate::devapi::Labels;
use crate::doctor::{self, Beside, Check, Findings, Task};
use crate::report::http::Address;

const SOMETHING_FAILED: u8 = 1;
/// A pod's name where there is none, so that the rest of the flags can be judged.
const NO_POD: &str = "doctor";

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exits 0 when nothing failed (there may be warnings), 1 when something did, an API server that cannot be reached included, 64 for wrong usage.\nIt writes nothing and takes no lock of a sidecar that runs beside it. Flags that are not given: those of the sidecar that is process 1, then LEASEHOLD_..., then the defaults of run."
)]
pub struct Args {
    /// Name of a Lease; repeatable
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    lease: Vec<String>,
    /// Its namespace
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    /// table (a line for each check, as soon as it is known), or json
    #[arg(short, long, value_enum, value_name = "FORM", default_value_t = Output::Table)]
    output: Output,
    /// As of run: the sidecar keeps a label on its pod
    #[arg(long)]
    role_label: bool,
    /// As of run: the sidecar joins this group
    #[arg(long, value_name = "GROUP")]
    member_of: Option<String>,
    /// As of run: the sidecar writes Events
    #[arg(long, value_enum, value_name = "SWITCH")]
    events: Option<Switch>,
    /// Wait so long for a sign of life of whoever holds the Lease
    #[arg(long, value_name = "TIME", value_parser = duration)]
    holder_within: Option<Duration>,
    /// The pod that holds the Lease runs and has these labels, such as app=web (needs get on pods)
    #[arg(long, value_name = "LABELS")]
    holder_selector: Option<Labels>,
    /// As of run: where the app asks
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    listen: Vec<Address>,
    /// As of run: where the kubelet asks
    #[arg(long, value_name = "ADDR")]
    probe_listen: Option<String>,
    /// As of run: the files for the app
    #[arg(long, value_name = "DIR")]
    report_dir: Option<PathBuf>,
    /// As of run: private memory
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// As of run: the sidecar's pod
    #[arg(long, value_name = "NAME")]
    pod_name: Option<String>,
    /// Use this kubeconfig [default: a pod's service account, else kubectl's]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A context of it
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

/// What `-o json` prints. Keys and the first words of names are only ever added.
#[derive(Serialize)]
struct All<'a> {
    ok: bool,
    checks: &'a [Check],
}

pub fn main(args: Args) -> ExitCode {
    let output = args.output;
    let task = match args.task() {
        Ok(task) => task,
        Err(faults) => {
            for fault in faults {
                eprintln!("leasehold: {fault}");
            }
            return ExitCode::from(EX_USAGE);
        }
    };
    let mut table = Table::default();
    let mut findings = Findings::new(move |check| {
        if output == Output::Table {
            table.show(check);
        }
    });
    let runtime = super::runtime();
    runtime.block_on(doctor::examine(&task, &mut findings));
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    if output == Output::Json {
        let all = All { ok: !findings.any_failed(), checks: &findings.checks };
        // Text into memory: nothing here can fail.
        say(&(serde_json::to_string_pretty(&all).unwrap_or_default() + "\n"));
    }
    match findings.any_failed() {
        true => ExitCode::from(SOMETHING_FAILED),
        false => ExitCode::SUCCESS,
    }
}

impl Args {
    fn task(self) -> Result<Task, Vec<String>> {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let sidecar = fs::read("/proc/1/cmdline").ok().and_then(|line| run_of(&line, &own_name()));
        let beside = match (&sidecar, env("KUBERNETES_SERVICE_HOST")) {
            (Some(_), _) => Beside::Sidecar,
            (None, Some(_)) => Beside::Pod,
            (None, None) => Beside::Nothing,
        };
        let mut run = match sidecar {
            Some(run) => run,
            None => run_without_flags()?,
        };
        self.override_in(&mut run);
        if beside == Beside::Nothing && env("POD_NAME").is_none() {
            run.pod_name.get_or_insert(NO_POD.into());
        }
        let settings = run.settings(env)?;
        Ok(Task {
            pod: Some(settings.pod.clone()).filter(|pod| pod != NO_POD),
            settings,
            beside,
            holder_within: self.holder_within,
            holder_selector: self.holder_selector,
        })
    }

    fn override_in(&self, run: &mut run::Args) {
        fn take<T: Clone>(given: &Option<T>, into: &mut T) {
            if let Some(given) = given {
                *into = given.clone();
            }
        }
        fn take_some<T: Clone>(given: &Option<T>, into: &mut Option<T>) {
            if given.is_some() {
                *into = given.clone();
            }
        }
        fn take_list<T: Clone>(given: &[T], into: &mut Vec<T>) {
            if !given.is_empty() {
                *into = given.to_vec();
            }
        }
        take_list(&self.lease, &mut run.lease);
        take_list(&self.listen, &mut run.listen);
        take_some(&self.namespace, &mut run.namespace);
        take_some(&self.member_of, &mut run.member_of);
        take_some(&self.pod_name, &mut run.pod_name);
        take_some(&self.kubeconfig, &mut run.kubeconfig);
        take_some(&self.context, &mut run.context);
        take(&self.probe_listen, &mut run.probe_listen);
        take(&self.report_dir, &mut run.report_dir);
        take(&self.state_dir, &mut run.state_dir);
        take(&self.events, &mut run.events);
        run.role_label |= self.role_label;
    }
}

/// The flags of a command line of this program that is `run`, as /proc shows it.
fn run_of(line: &[u8], own_name: &str) -> Option<run::Args> {
    let text = std::str::from_utf8(line).ok()?;
    let words: Vec<&str> = text.strip_suffix('\0').unwrap_or(text).split('\0').collect();
    // Other programs run things as well.
    if name_of(words.first()?) != own_name {
        return None;
    }
    match Cli::try_parse_from(words).ok()?.command {
        Command::Run(run) => Some(*run),
        _ => None,
    }
}

/// What the environment alone makes of `run`.
fn run_without_flags() -> Result<run::Args, Vec<String>> {
    match Cli::try_parse_from(["leasehold", "run"]) {
        Ok(Cli { command: Command::Run(run) }) => Ok(*run),
        Ok(_) => Err(Vec::new()),
        Err(error) => Err(vec![format!("the environment: {}", error.to_string().trim())]),
    }
}

fn own_name() -> String {
    std::env::args().next().map(|path| name_of(&path).to_owned()).unwrap_or_default()
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// One line a check, and below it what to do, once.
#[derive(Default)]
struct Table {
    last_fix: Option<String>,
}

impl Table {
    fn show(&mut self, check: &Check) {
        let mut text = format!("{:<8} {:<26} {}\n", check.status.as_str(), check.name, shown(&check.message));
        match &check.fix {
            Some(fix) if self.last_fix.as_ref() == Some(fix) => text += "         -> as above\n",
            Some(fix) => {
                for (index, line) in shown(fix).lines().enumerate() {
                    text += &format!("         {}{line}\n", if index == 0 { "-> " } else { "   " });
                }
            }
            None => {}
        }
        self.last_fix = check.fix.clone().or(self.last_fix.take());
        say(&text);
    }
}

/// Anybody may have written what is shown: a terminal obeys none of it.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        match c.is_control() && c != '\n' {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that went away wants no more.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sidecars_flags_are_read_from_its_command_line_and_from_no_other() {
        let run = run_of(b"/leasehold\0run\0--lease=web\0-n\0shop\0", "leasehold").expect("a sidecar");
        assert_eq!((run.lease, run.namespace.as_deref()), (vec!["web".to_owned()], Some("shop")));
        let others: [&[u8]; 7] = [
            b"",
            b"/leasehold\0doctor\0",
            b"/leasehold\0run\0--no-such-flag\0",
            b"/usr/bin/caddy\0run\0",
            b"/sbin/init\0splash\0",
            b"/pause\0",
            b"/leasehold\0run\0--lease=\xff\0",
        ];
        for other in others {
            assert!(run_of(other, "leasehold").is_none(), "{other:?}");
        }
    }

    #[test]
    fn what_others_wrote_does_not_reach_the_terminal_as_it_is() {
        assert_eq!(shown("a\u{1b}[31m\u{9b}b\nc"), "a\\u{1b}[31m\\u{9b}b\nc");
    }
}
