//! One conversation with one server, written down so that two servers' can be compared.
//!
//! What differs between any two runs is replaced: a uid, a version or a generated name by when it
//! was first seen in the conversation, a time by the word. What the embedded server leaves out on
//! purpose is left out here, each with its reason.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::support::http::{Answer, Http};

/// The sentences of Go's JSON and time libraries, which ours are not: compared as equal.
const GO_WORDING: &[&str] = &[
    "cannot parse",
    "couldn't get version/kind",
    "error decoding patch",
    "json: cannot unmarshal",
    "no kind ",
    "unknown conversion",
    "does not match the expected API version",
    "unrecognized type",
    "only the following media types",
    "accepted media types",
    "406: Not Acceptable",
    "unexpected EOF",
    "expected prefix",
    "parsing time",
];

pub struct Talk {
    connect: Box<dyn Fn() -> Http>,
    http: Http,
    namespace: String,
    seen: BTreeMap<String, String>,
    record: String,
}

impl Talk {
    pub fn new(namespace: String, connect: impl Fn() -> Http + 'static) -> Talk {
        let http = connect();
        Talk { connect: Box::new(connect), http, namespace, seen: BTreeMap::new(), record: String::new() }
    }

    pub fn record(self) -> String {
        self.record
    }

    pub fn namespace(&self) -> String {
        self.namespace.clone()
    }

    /// The path of the namespace's Leases, or with `/NAME` and `?QUERY` after it.
    pub fn leases(&self, rest: &str) -> String {
        let namespace = &self.namespace;
        format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases{rest}")
    }

    pub fn get(&mut self, rest: &str) -> Value {
        let path = self.leases(rest);
        self.raw("GET", &path, &[], b"")
    }

    pub fn get_as(&mut self, rest: &str, accept: &str) -> Value {
        let path = self.leases(rest);
        self.raw("GET", &path, &[("Accept", accept)], b"")
    }

    pub fn post(&mut self, rest: &str, body: Value) -> Value {
        self.send("POST", rest, "application/json", body)
    }

    pub fn put(&mut self, rest: &str, body: Value) -> Value {
        self.send("PUT", rest, "application/json", body)
    }

    pub fn delete(&mut self, rest: &str, options: Value) -> Value {
        self.send("DELETE", rest, "application/json", options)
    }

    pub fn merge(&mut self, rest: &str, patch: Value) -> Value {
        self.send("PATCH", rest, "application/merge-patch+json", patch)
    }

    pub fn send(&mut self, method: &str, rest: &str, kind: &str, body: Value) -> Value {
        let path = self.leases(rest);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.raw(method, &path, &[("Content-Type", kind)], body.as_bytes())
    }

    /// One request; gives the body as it came.
    pub fn raw(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Value {
        let mut all = vec![("User-Agent", "lease-api")];
        all.extend(headers);
        let answer = match self.http.request(method, path, &all, body) {
            Ok(answer) => answer,
            // The server may close a connection after it refused a body.
            Err(_) => {
                self.http = (self.connect)();
                self.http.request(method, path, &all, body).expect("the server answers")
            }
        };
        self.note(method, path, headers, body, &answer)
    }

    fn note(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8], answer: &Answer) -> Value {
        let asked = match std::str::from_utf8(body) {
            Ok(body) if body.len() < 1000 => body.to_owned(),
            _ => "(a long body)".to_owned(),
        };
        let asked = format!("{method} {path} {headers:?} {asked}");
        let asked = self.replaced(&asked);
        let _ = writeln!(self.record, "\n> {asked}");
        let kind = answer.header("content-type").unwrap_or_default().to_owned();
        let _ = writeln!(self.record, "{} {kind}", answer.status);
        if let Some(warning) = answer.header("warning") {
            let _ = writeln!(self.record, "warning: {warning}");
        }
        let text = answer.text();
        let Ok(value) = serde_json::from_str::<Value>(&text) else {
            let _ = writeln!(self.record, "{}", text.trim_end());
            return Value::Null;
        };
        self.write_down(&value);
        value
    }

    /// All events of a watch that lasts a second, or as long as `rest` says.
    pub fn watch(&mut self, rest: &str) -> Vec<Value> {
        self.watch_while(rest, |_| ())
    }

    pub fn watch_as(&mut self, rest: &str, accept: &str) -> Vec<Value> {
        let path = self.leases(&format!("?watch=1&timeoutSeconds=1{rest}"));
        let http = (self.connect)().with_header("Accept", accept);
        self.watched(http, &path, |_| ())
    }

    /// The same, with requests made once the watch has been answered.
    pub fn watch_while(&mut self, rest: &str, meanwhile: impl FnOnce(&mut Talk)) -> Vec<Value> {
        let given = if rest.contains("timeoutSeconds") { "" } else { "&timeoutSeconds=1" };
        let path = self.leases(&format!("?watch=1{given}{rest}"));
        let http = (self.connect)();
        self.watched(http, &path, meanwhile)
    }

    fn watched(&mut self, http: Http, path: &str, meanwhile: impl FnOnce(&mut Talk)) -> Vec<Value> {
        let mut stream = http.stream(path).expect("the watch begins");
        let status = stream.status;
        meanwhile(self);
        let mut events = Vec::new();
        while let Some(line) = stream.next_line().expect("the watch goes on") {
            if let Ok(event) = serde_json::from_str::<Value>(&line) {
                events.push(event);
            }
        }
        let asked = self.replaced(path);
        let _ = writeln!(self.record, "\n> WATCH {asked}\n{status}");
        // The real server may send a bookmark more near the end: it looks once a second.
        let bookmark = |event: &Value| event["type"] == "BOOKMARK";
        let told = events.iter().enumerate().filter(|(index, event)| {
            let again = bookmark(event) && *index > 0 && bookmark(&events[index - 1]);
            !again
        });
        let told: Vec<Value> = told.map(|(_, event)| event.clone()).collect();
        for event in &told {
            self.write_down(event);
        }
        told
    }

    fn write_down(&mut self, value: &Value) {
        self.learn(value);
        let mut value = value.clone();
        self.normalise(&mut value);
        let _ = writeln!(self.record, "{value:#}");
    }

    /// Remembers the names that this run gave.
    fn learn(&mut self, value: &Value) {
        match value {
            Value::Object(object) => {
                if is_list(object) {
                    let items = object.get("items").or(object.get("rows"));
                    return items.into_iter().for_each(|items| self.learn(items));
                }
                if object.get("type") == Some(&json!("BOOKMARK")) {
                    return;
                }
                let generated = object.contains_key("generateName");
                for (key, value) in object {
                    let known = match key.as_str() {
                        "uid" | "resourceVersion" => true,
                        "name" => generated,
                        _ => false,
                    };
                    match value.as_str() {
                        Some(text) if known && !text.is_empty() => {
                            let place = format!("<{key} {}>", self.seen.len());
                            self.seen.entry(text.to_owned()).or_insert(place);
                        }
                        _ => self.learn(value),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.learn(item)),
            _ => {}
        }
    }

    fn normalise(&self, value: &mut Value) {
        match value {
            Value::Object(object) => {
                // Who wrote what is kept for server-side apply, which is not offered here.
                object.remove("managedFields");
                // Its texts are longer in the real server.
                if object.contains_key("cells") {
                    object["cells"][2] = json!("<age>");
                }
                if let Some(columns) = object.get_mut("columnDefinitions") {
                    for column in columns.as_array_mut().into_iter().flatten() {
                        column["description"] = json!("<text>");
                    }
                }
                for key in ["creationTimestamp", "deletionTimestamp"] {
                    if object.contains_key(key) {
                        object[key] = json!("<time>");
                    }
                }
                // Go walks its maps in any order.
                if let Some(Value::Array(causes)) = object.get_mut("causes") {
                    causes.sort_by_key(Value::to_string);
                }
                // A list's and a bookmark's version is the whole server's, where others write.
                if is_list(object) || object.get("type") == Some(&json!("BOOKMARK")) {
                    blank_versions(object);
                }
                object.values_mut().for_each(|value| self.normalise(value));
                if let Some(Value::String(message)) = object.get_mut("message") {
                    *message = plain_message(message);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.normalise(item)),
            Value::String(text) => *text = self.replaced(text),
            _ => {}
        }
    }

    /// `text` with each known name replaced where it stands as a word of its own.
    fn replaced(&self, text: &str) -> String {
        let mut words = String::new();
        let mut word = String::new();
        for character in text.chars().chain(['\0']) {
            if character.is_ascii_alphanumeric() || character == '-' {
                word.push(character);
                continue;
            }
            let version = words.ends_with("resourceVersion=") && word.len() > 1;
            words += match self.seen.get(&word) {
                _ if version => "<version>",
                Some(place) => place,
                None => &word,
            };
            word.clear();
            words.push(character);
        }
        words.pop();
        words
    }
}

/// In a list and in a row's table it is the server's, not the Lease's.
fn is_list(object: &serde_json::Map<String, Value>) -> bool {
    object.contains_key("items") || object.contains_key("rows")
}

fn blank_versions(object: &mut serde_json::Map<String, Value>) {
    if let Some(metadata) = object.get_mut("metadata") {
        metadata["resourceVersion"] = json!("<now>");
    }
    if let Some(bookmark) = object.get_mut("object") {
        bookmark["metadata"]["resourceVersion"] = json!("<now>");
        for row in bookmark.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten() {
            row["object"]["metadata"]["resourceVersion"] = json!("<now>");
        }
    }
}

fn plain_message(message: &str) -> String {
    if GO_WORDING.iter().any(|wording| message.contains(wording)) {
        return "<in other words>".to_owned();
    }
    // The numbers after it are of the whole server.
    for sentence in ["Too large resource version", "too old resource version"] {
        if message.contains(sentence) {
            return sentence.to_owned();
        }
    }
    // Several rules in one sentence: in Go's order of the day.
    match message.split_once(": [") {
        Some((before, rules)) => {
            let mut rules: Vec<&str> = rules.trim_end_matches(']').split(", metadata.").collect();
            rules.sort_by_key(|rule| rule.trim_start_matches("metadata."));
            let rules: Vec<&str> = rules.iter().map(|rule| rule.trim_start_matches("metadata.")).collect();
            format!("{before}: {rules:?}")
        }
        None => message.to_owned(),
    }
}
