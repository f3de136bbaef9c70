//! What `leases` shows: a table, JSON, or while it watches a line for each change; on a terminal the table, redrawn.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use rustix::termios::tcgetwinsize;
use serde_json::{Value, json};

use crate::election::{Token, pod_of};
use crate::kubernetes::format_time;
use crate::membership::{Catalogue, Kind, Known, MEMBER_OF, State};
use crate::time::{Clock, Moment, SystemClock};

/// So often a terminal is redrawn, for ages grow.
const REDRAW: Duration = Duration::from_secs(1);
/// Another screen, without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const GAP: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    Table,
    /// The same with whole identities, the renewTime by the holder's clock, and the owner
    Wide,
    /// One object; with --watch one a line for each change
    Json,
}

pub struct View {
    form: Form,
    with_namespace: bool,
    terminal: bool,
    colours: bool,
    /// The terminal shows the other screen.
    entered: bool,
    /// What was said last of each.
    said: Vec<Said>,
    complained: Option<String>,
}

/// What of a Lease is news when it changes: not each renewal.
#[derive(PartialEq, Eq)]
struct Said {
    namespace: String,
    name: String,
    uid: String,
    holder: Option<String>,
    state: State,
    transitions: i32,
    token: Token,
}

impl View {
    pub fn new(form: Form, with_namespace: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        View { form, with_namespace, terminal, colours, entered: false, said: Vec::new(), complained: None }
    }

    /// All of it, once.
    pub fn show(&self, catalogue: &Catalogue, now: Moment, observed: Duration) {
        if self.form == Form::Json {
            let leases: Vec<Value> = catalogue.iter().map(|known| as_json(known, now)).collect();
            let count = |wanted: fn(State) -> bool| catalogue.iter().filter(|known| wanted(known.state(now))).count();
            let all = json!({
                "alive": count(State::is_alive),
                "leases": leases,
                "observed_ms": u64::try_from(observed.as_millis()).unwrap_or(u64::MAX),
                "observing": count(|state| state == State::Observing),
            });
            print(&format!("{all:#}\n"));
        } else if catalogue.is_empty() {
            eprintln!("leasehold: there are no such Leases");
        } else {
            print(&self.table(catalogue, now, usize::MAX, usize::MAX));
        }
    }

    /// What is new. False: nobody reads it any more.
    pub fn update(&mut self, catalogue: &Catalogue, now: Moment, complaint: Option<&str>) -> bool {
        if self.redraws() {
            return self.redraw(catalogue, now, complaint);
        }
        if self.complained.as_deref() != complaint {
            self.complained = complaint.map(str::to_owned);
            if let Some(complaint) = complaint {
                eprintln!("leasehold: {complaint}");
            }
        }
        let text = self.changes(catalogue, now);
        text.is_empty() || print(&text)
    }

    /// When to look again though nothing changes.
    pub fn next_update(&self) -> Moment {
        if self.redraws() { SystemClock.boot() + REDRAW } else { Moment::NEVER }
    }

    fn redraws(&self) -> bool {
        self.terminal && self.form != Form::Json
    }

    /// A line for each that changed since it was said.
    fn changes(&mut self, catalogue: &Catalogue, now: Moment) -> String {
        let mut text = String::new();
        let mut before = std::mem::take(&mut self.said).into_iter().peekable();
        for known in catalogue.iter() {
            let said = Said::of(known, now);
            while let Some(gone) = before.next_if(|other| other.key() < said.key()) {
                text += &self.gone(&gone);
            }
            if before.next_if(|other| other.key() == said.key()).is_none_or(|other| other != said) {
                text += &self.line(known, now);
            }
            self.said.push(said);
        }
        for gone in before {
            text += &self.gone(&gone);
        }
        text
    }

    fn line(&self, known: &Known, now: Moment) -> String {
        if self.form == Form::Json {
            return format!("{}\n", as_json(known, now));
        }
        format!("{} {}\n", clock(), self.cells(known, now).join("  "))
    }

    fn gone(&self, gone: &Said) -> String {
        let Said { namespace, name, uid, .. } = gone;
        if self.form == Form::Json {
            return format!("{}\n", json!({"name": name, "namespace": namespace, "state": "deleted", "uid": uid}));
        }
        let place = if self.with_namespace { format!("{}  ", plain(namespace)) } else { String::new() };
        format!("{} {place}{}  deleted\n", clock(), plain(name))
    }

    /// As much of the table as there is room for, and a last line.
    fn redraw(&mut self, catalogue: &Catalogue, now: Moment, complaint: Option<&str>) -> bool {
        let size = tcgetwinsize(std::io::stdout()).ok().filter(|size| size.ws_row > 3 && size.ws_col > 10);
        let (rows, columns) = size.map_or((24, 80), |size| (size.ws_row.into(), size.ws_col.into()));
        let table = self.table(catalogue, now, rows - 2, columns);
        let last = match (complaint, (catalogue.len() + 1).saturating_sub(rows - 2)) {
            (Some(complaint), _) => plain(complaint),
            (None, 0) => "Ctrl-C ends it.".into(),
            (None, hidden) => format!("{hidden} more: choose by -n or -l. Ctrl-C ends it."),
        };
        let start = if std::mem::replace(&mut self.entered, true) { "\x1b[H" } else { ENTER };
        let last: String = last.chars().take(columns).collect();
        print(&format!("{start}{}{last}\x1b[K\x1b[J", table.replace('\n', "\x1b[K\n")))
    }

    /// A header and a line for each, in columns: as many lines, and as much of each, as may be.
    fn table(&self, catalogue: &Catalogue, now: Moment, lines: usize, columns: usize) -> String {
        let mut rows = vec![self.header()];
        rows.extend(catalogue.iter().map(|known| self.cells(known, now)));
        let width_of = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..rows[0].len()).map(width_of).collect();
        let before_state = widths.iter().take(3 + usize::from(self.with_namespace)).map(|width| width + GAP).sum();
        let mut table = String::new();
        let states = std::iter::once(None).chain(catalogue.iter().map(|known| Some(known.state(now))));
        for (row, state) in rows.iter().zip(states).take(lines) {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<0$}", width + GAP));
            let line: String = cells.collect::<String>().trim_end().chars().take(columns).collect();
            match state {
                Some(state) if self.colours => table += &coloured(&line, before_state, state),
                _ => table += &line,
            }
            table.push('\n');
        }
        table
    }

    fn header(&self) -> Vec<String> {
        let mut header = vec!["NAME", "KIND", "HOLDER", "STATE", "RENEWED", "DURATION", "TRANSITIONS", "TOKEN"];
        if self.with_namespace {
            header.insert(0, "NAMESPACE");
        }
        if self.form == Form::Wide {
            header.extend(["RENEW-TIME", "OWNER"]);
        }
        header.into_iter().map(str::to_owned).collect()
    }

    fn cells(&self, known: &Known, now: Moment) -> Vec<String> {
        let Known { entry, sight } = known;
        let spec = &entry.record.spec;
        let wide = self.form == Form::Wide;
        let none = || "-".to_owned();
        let holder = spec.holder.as_deref().map(|holder| if wide { holder } else { pod_of(holder) });
        let mut cells = vec![
            plain(&entry.name),
            entry.kind().as_str().into(),
            holder.map_or_else(none, plain),
            sight.state(now).as_str().into(),
            sight.age(now).map_or_else(none, |age| span(age) + " ago"),
            sight.duration().map_or_else(none, span),
            spec.transitions.to_string(),
            match entry.record.token {
                Token::Absent => none(),
                Token::Value(token) => token.to_string(),
                Token::Unreadable => "unreadable".into(),
            },
        ];
        if self.with_namespace {
            cells.insert(0, plain(&entry.namespace));
        }
        if wide {
            let owner = entry.owner.as_ref().map(|owner| plain(&format!("{}/{}", owner.kind, owner.name)));
            cells.push(spec.renew_time.map_or_else(none, format_time));
            cells.push(owner.unwrap_or_else(none));
        }
        cells
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if self.entered {
            print(LEAVE);
        }
    }
}

impl Said {
    fn of(known: &Known, now: Moment) -> Self {
        let Known { entry, sight } = known;
        let record = &entry.record;
        Said {
            namespace: entry.namespace.clone(),
            name: entry.name.clone(),
            uid: record.uid.clone(),
            holder: record.spec.holder.clone(),
            state: sight.state(now),
            transitions: record.spec.transitions,
            token: record.token,
        }
    }

    fn key(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }
}

/// Keys are only ever added.
fn as_json(known: &Known, now: Moment) -> Value {
    let Known { entry, sight } = known;
    let spec = &entry.record.spec;
    let kind = match entry.kind() {
        Kind::ApiServer => "api_server",
        kind => kind.as_str(),
    };
    let owner = entry.owner.as_ref().map(|owner| json!({"kind": owner.kind, "name": owner.name, "uid": owner.uid}));
    json!({
        "acquire_time": spec.acquire_time.map(format_time),
        "duration_seconds": sight.duration().map(|duration| duration.as_secs()),
        "holder": spec.holder,
        "kind": kind,
        "member_of": entry.label(MEMBER_OF),
        "name": entry.name,
        "namespace": entry.namespace,
        "owner": owner,
        "renew_time": spec.renew_time.map(format_time),
        "renewed_ms": sight.age(now).map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        "state": sight.state(now).as_str().replace(' ', "_"),
        "token": entry.record.token.value(),
        "transitions": spec.transitions,
        "uid": entry.record.uid,
    })
}

/// The two largest units of a time: `40s`, `3m20s`, `1h`.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let parts: Vec<_> = parts.iter().skip_while(|(count, _)| *count == 0).take(2).collect();
    let text: String =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
    if text.is_empty() { "0s".into() } else { text }
}

/// Anybody may have written what is shown: a terminal obeys none of it.
fn plain(text: &str) -> String {
    text.escape_debug().to_string()
}

/// A line whose state begins after so many characters, if it is long enough to hold it.
fn coloured(line: &str, before: usize, state: State) -> String {
    let colour = match state {
        State::Held => 32,
        State::Late => 33,
        State::Expired => 31,
        _ => return line.to_owned(),
    };
    let Some((start, _)) = line.char_indices().nth(before) else { return line.to_owned() };
    let (head, tail) = line.split_at(start);
    let (word, rest) = tail.split_at_checked(state.as_str().len()).unwrap_or((tail, ""));
    format!("{head}\x1b[{colour}m{word}\x1b[0m{rest}")
}

fn clock() -> String {
    SystemClock.wall().strftime("%H:%M:%S").to_string()
}

/// False: the reader went away.
pub fn print(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::election::{Record, Spec};
    use crate::membership::{Entry, Owner};

    fn entry(name: &str, version: u64, holder: &str) -> Entry {
        let spec = Spec {
            holder: Some(holder.into()).filter(|holder: &String| !holder.is_empty()),
            duration_seconds: Some(3600),
            renew_time: jiff::Timestamp::from_second(version as i64).ok(),
            transitions: 3,
            ..Spec::default()
        };
        let token = Token::Value(7);
        let record =
            Record { uid: "u".into(), version, spec, token, released: None, step_down: None, pod_owned: false };
        Entry {
            namespace: "shop".into(),
            name: name.into(),
            record,
            labels: vec![(MEMBER_OF.into(), "web".into())],
            annotations: Vec::new(),
            owner: Some(Owner { kind: "Pod".into(), name: "web-0".into(), uid: "p".into() }),
            created: None,
        }
    }

    fn second(n: u64) -> Moment {
        Moment::BOOT + Duration::from_secs(n)
    }

    fn catalogue() -> Catalogue {
        let mut catalogue = Catalogue::default();
        catalogue.listed(second(0), second(0), vec![entry("a", 1, "web-0_ff"), entry("b", 2, "")]);
        catalogue.changed(second(2), entry("a", 3, "web-0_ff"));
        catalogue
    }

    fn view(form: Form, with_namespace: bool) -> View {
        let mut view = View::new(form, with_namespace);
        (view.terminal, view.colours) = (false, false);
        view
    }

    #[test]
    fn a_table_has_a_line_for_each_and_a_terminal_obeys_nothing_that_is_in_it() {
        let mut catalogue = catalogue();
        let table = |form, with_namespace, catalogue: &Catalogue| {
            view(form, with_namespace).table(catalogue, second(5), usize::MAX, usize::MAX)
        };
        assert_eq!(
            table(Form::Table, false, &catalogue),
            "NAME   KIND     HOLDER   STATE      RENEWED   DURATION   TRANSITIONS   TOKEN\n\
             a      member   web-0    held       3s ago    1h         3             7\n\
             b      member   -        released   -         1h         3             7\n"
        );
        let wide = table(Form::Wide, true, &catalogue);
        assert!(wide.starts_with("NAMESPACE   NAME   KIND     HOLDER     STATE "), "{wide}");
        assert!(wide.contains("web-0_ff   held       3s ago    1h         3             7       1970-01-01T00:00:03.000000Z   Pod/web-0\n"), "{wide}");
        catalogue.changed(second(6), entry("b", 9, "\u{1b}[2Jx\n"));
        assert!(table(Form::Table, false, &catalogue).contains(r" \u{1b}[2Jx\n "));
    }

    #[test]
    fn a_table_is_cut_to_the_terminal_and_only_states_are_coloured() {
        let mut view = view(Form::Table, false);
        view.colours = true;
        assert_eq!(
            view.table(&catalogue(), second(5), 2, 29),
            "NAME   KIND     HOLDER   STAT\na      member   web-0    \x1b[32mheld\x1b[0m\n"
        );
        assert_eq!(view.table(&catalogue(), second(5), 3, 10).lines().nth(1), Some("a      mem"));
    }

    #[test]
    fn a_change_is_said_once_and_a_renewal_is_none() {
        let mut view = view(Form::Json, true);
        let mut catalogue = catalogue();
        let lines = view.changes(&catalogue, second(5));
        assert_eq!(lines.lines().count(), 2);
        let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert_eq!(
            (&first["state"], &first["renewed_ms"], &first["kind"]),
            (&json!("held"), &json!(3000), &json!("member"))
        );
        assert_eq!(
            (&first["holder"], &first["member_of"], &first["token"]),
            (&json!("web-0_ff"), &json!("web"), &json!(7))
        );
        catalogue.changed(second(6), entry("a", 10, "web-0_ff"));
        assert_eq!(view.changes(&catalogue, second(6)), "");
        assert!(view.changes(&catalogue, second(6 + 1800)).contains(r#""state":"late""#));
        catalogue.deleted("shop", "a", 11);
        assert_eq!(
            view.changes(&catalogue, second(7)),
            "{\"name\":\"a\",\"namespace\":\"shop\",\"state\":\"deleted\",\"uid\":\"u\"}\n"
        );
        catalogue.changed(second(8), entry("a", 12, "web-1_ff"));
        assert_eq!(view.changes(&catalogue, second(8)).lines().count(), 1);
    }

    #[test]
    fn times_are_told_in_two_units() {
        let spans = [0, 59, 60, 90, 200, 3600, 3605, 7500, 90_000].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(spans, ["0s", "59s", "1m", "1m30s", "3m20s", "1h", "1h", "2h5m", "25h"]);
    }
}
