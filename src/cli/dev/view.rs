//! What `dev` shows: on a terminal a table that redraws in place, else a line a change.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::Pod;
use crate::time::{Clock, SystemClock};

const PATIENCE: Duration = Duration::from_millis(300);

pub struct View {
    lease: String,
    client: Client<HttpConnector, Empty<Bytes>>,
    terminal: bool,
    /// Lines drawn, to draw over.
    drawn: usize,
    /// Who led last, as a line.
    said: String,
    pods_said: Vec<bool>,
}

/// What a pod's sidecar answers, if it does.
struct Answer {
    leads: bool,
    token: Option<u64>,
    lease_remaining_ms: u64,
    message: String,
}

impl View {
    pub fn new(lease: &str) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let terminal = std::io::stdout().is_terminal();
        View { lease: lease.into(), client, terminal, drawn: 0, said: String::new(), pods_said: Vec::new() }
    }

    pub async fn show(&mut self, pods: &[Pod]) {
        let mut answers = Vec::new();
        for pod in pods {
            answers.push(self.ask(pod).await);
        }
        if self.terminal { self.redraw(pods, &answers) } else { self.tell_changes(pods, &answers) }
    }

    async fn ask(&self, pod: &Pod) -> Option<Answer> {
        let uri = format!("http://{}/v1/leader", pod.address).parse().ok()?;
        let answer = tokio::time::timeout(PATIENCE, async {
            let body = self.client.get(uri).await.ok()?.into_body().collect().await.ok()?;
            serde_json::from_slice::<Value>(&body.to_bytes()).ok()
        });
        let answer = answer.await.ok()??;
        Some(Answer {
            leads: answer["leader"] == true,
            token: answer["fencing_token"].as_u64(),
            lease_remaining_ms: answer["lease_remaining_ms"].as_u64().unwrap_or(0),
            message: answer["message"].as_str().unwrap_or_default().to_owned(),
        })
    }

    fn redraw(&mut self, pods: &[Pod], answers: &[Option<Answer>]) {
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}F", self.drawn));
        }
        let mut line = |content: &str| {
            text.push_str("\x1b[2K");
            text.push_str(content);
            text.push('\n');
            1
        };
        let mut drawn = line("");
        drawn += line(&format!(
            "lease {} · kill a leader (kill -9 PID) and see who takes over · Ctrl-C ends all",
            self.lease
        ));
        drawn += line("");
        drawn += line("  POD       PID      ASK                              LEADS  TOKEN           LEASE FOR");
        for (pod, answer) in pods.iter().zip(answers) {
            let pid = pod.process.as_ref().map_or("-".into(), |process| process.id().to_string());
            let ask = format!("curl -i {}/leader", pod.address);
            let (leads, token, rest) = match answer {
                Some(answer) if answer.leads => (
                    "\x1b[1;32myes\x1b[0m  ",
                    answer.token.map_or(String::new(), |token| token.to_string()),
                    format!("{}.{} s", answer.lease_remaining_ms / 1000, answer.lease_remaining_ms % 1000 / 100),
                ),
                Some(answer) => ("no   ", String::new(), answer.message.chars().take(50).collect()),
                None => ("?    ", String::new(), "no answer".into()),
            };
            drawn += line(&format!("  {:<9} {:<8} {:<32} {leads}  {token:<15} {rest}", pod.name, pid, ask));
        }
        self.drawn = drawn;
        print(&text);
    }

    fn tell_changes(&mut self, pods: &[Pod], answers: &[Option<Answer>]) {
        self.pods_said.resize(pods.len(), false);
        for ((pod, answer), said) in pods.iter().zip(answers).zip(&mut self.pods_said) {
            if answer.is_some() != *said {
                *said = answer.is_some();
                let pid = pod.process.as_ref().map_or(0, std::process::Child::id);
                let text = if *said {
                    format!("answers: curl -i {}/leader (pid {pid})", pod.address)
                } else {
                    "does not answer".into()
                };
                print(&format!("{} {} {text}\n", clock(), pod.name));
            }
        }
        let leader = pods.iter().zip(answers).find_map(|(pod, answer)| {
            let answer = answer.as_ref().filter(|answer| answer.leads)?;
            Some(format!("{} leads under token {}", pod.name, answer.token.unwrap_or(0)))
        });
        let line = leader.unwrap_or_else(|| "nobody leads".into());
        if line != self.said {
            print(&format!("{} {line}\n", clock()));
            self.said = line;
        }
    }
}

fn clock() -> String {
    SystemClock.wall().strftime("%H:%M:%S").to_string()
}

/// A reader that went away (a closed pipe) is no reason to end the others.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
