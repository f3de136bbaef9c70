//! Many Leases as the API server sends them: a page of a list, and the body of a watch in pieces of any size.
//!
//! A page holds what its items say one by one, or is refused. What a watch tells does not depend on where the pieces
//! end. A catalogue that takes all of it in holds each Lease once, in order, and from a watch never goes back to an
//! older version; and every Lease is in one state at any time, dead only after a read.
//!
//! Input: a byte for the sizes of the pieces, then the page, or the body.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use leasehold::kubernetes::{Connection, Ended, Leases, Many, Source, Told, entry_of, hear, page_of};
use leasehold::membership::{Catalogue, Entry, State};
use leasehold::time::Moment;
use serde_json::Value;
use tokio::sync::mpsc;

use super::exchange::block_on;
use super::watch_stream::Pieces;

const LEASE_TIME: Duration = Duration::from_secs(10);

pub fn run(data: &[u8]) {
    let Some((pieces, body)) = data.split_first() else { return };
    let entries = check_page(body);
    let size = usize::from(*pieces) + 1;
    let (whole, ended) = heard(body, body.len().max(1));
    let (split, split_ended) = heard(body, size);
    assert_eq!((in_words(&split), split_ended), (in_words(&whole), ended), "in pieces of {size}");
    check_catalogue(entries, whole);
}

fn keep(key: &str) -> bool {
    key.len().is_multiple_of(2)
}

/// What a page says of its items, by another way of reading it.
fn check_page(body: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let Ok(page) = page_of(body, keep, &mut entries) else { return Vec::new() };
    // Twice the same key is left to whoever reads it.
    let list: Value = serde_json::from_slice(body).expect("a page is JSON");
    let version = list["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse::<u64>().ok());
    assert_eq!(version, Some(page.version));
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert!(items.len() <= entries.len());
    let read = items.iter().map(|item| entry_of(item, keep).expect("each item was read"));
    assert!(entries.ends_with(&read.collect::<Vec<_>>()));
    for entry in &entries {
        assert!(entry.labels.iter().chain(&entry.annotations).all(|(key, _)| keep(key)));
    }
    entries
}

fn heard(body: &[u8], size: usize) -> (Vec<Told>, String) {
    static LEASES: LazyLock<Leases> = LazyLock::new(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = kube::Config::new(hyper::Uri::from_static("http://127.0.0.1:9"));
        let connection = Connection::new(Source::default(), &config, Box::new(|_, _, _| {}));
        let connection = Arc::new(connection.expect("plain HTTP needs nothing"));
        Leases::new(connection, None, String::new(), keep, LEASE_TIME)
    });
    block_on(async {
        // More than there can be lines.
        let (tell, mut heard) = mpsc::channel(body.len() + 1);
        let many = Many { leases: &LEASES, tell };
        let ended = hear(&many, Pieces { body, size }, &mut 1).await;
        assert!(!matches!(ended, Ok(Some(Ended::NobodyListens))), "somebody listens");
        drop(many);
        let mut told = Vec::new();
        while let Some(one) = heard.recv().await {
            told.push(one);
        }
        (told, format!("{ended:?}"))
    })
}

fn in_words(told: &[Told]) -> String {
    format!("{told:?}")
}

fn check_catalogue(entries: Vec<Entry>, told: Vec<Told>) {
    let mut now = Moment::BOOT + LEASE_TIME;
    let mut catalogue = Catalogue::default();
    catalogue.listed(now, now, entries);
    check_order(&catalogue);
    for one in told {
        now = now + LEASE_TIME;
        match one {
            Told::Changed(entry) => {
                let (namespace, name, version) = (entry.namespace.clone(), entry.name.clone(), entry.record.version);
                let before = catalogue.get(&namespace, &name).map(|known| known.entry.record.version);
                let is_news = catalogue.changed(now, *entry);
                assert_eq!(is_news, before.is_none_or(|before| version > before));
                let known = catalogue.get(&namespace, &name).expect("it was just seen");
                assert_eq!(known.entry.record.version, before.unwrap_or(version).max(version));
                assert!(!is_news || known.state(now) != State::Expired, "it was just seen to change");
            }
            Told::Deleted { namespace, name, version, .. } => {
                let gone = catalogue.deleted(&namespace, &name, version);
                assert!(!gone || catalogue.get(&namespace, &name).is_none());
            }
            Told::Heard => {}
            other => panic!("a watch's body does not say {other:?}"),
        }
        check_order(&catalogue);
        assert!(catalogue.next_change(now).is_none_or(|next| next > now));
    }
    // Years later nothing is dead that no read confirms.
    let later = now + Duration::from_secs(1 << 30);
    for known in catalogue.iter() {
        assert!(known.state(later) != State::Expired);
        assert_eq!(
            known.sight.is_in_doubt(later),
            known.entry.record.holder().is_some() && known.sight.duration().is_some()
        );
    }
}

fn check_order(catalogue: &Catalogue) {
    let keys: Vec<_> = catalogue.iter().map(|known| (&known.entry.namespace, &known.entry.name)).collect();
    assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
}
