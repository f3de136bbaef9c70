//! Many Leases: of a namespace or of all, by a label selector, listed page by page and watched.
//!
//! Of each Lease only what a reader asks for is kept ([`Entry`]), and a page is read item by item: a cluster may have
//! thousands, and the reader may be a sidecar.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use tokio::sync::mpsc;

use super::connection::LARGEST_ANSWER;
use super::follow::{self, Event, Later, Subject};
use super::{Connection, Failure, lease, request};
use crate::membership::{Entry, Look, Owner, Place};
use crate::time::{Clock, Moment, SystemClock};

/// The items of a page, unless they are large.
const PAGE: usize = 100;
/// The bytes of a page. One item alone may have more.
const LARGEST_PAGE: usize = 4 << 20;
/// Beyond so many in doubt one list costs less than a read of each.
const READ_ONE_BY_ONE: usize = 5;
/// More than the largest clusters have; a list that goes on is none.
const MOST_PAGES: usize = 2000;

/// What is heard of many Leases.
#[derive(Debug)]
pub enum Told {
    /// All there are, read consistently: it replaces everything that was known.
    Listed {
        entries: Vec<Entry>,
        version: u64,
        sent_at: Moment,
    },
    Changed(Box<Entry>),
    Deleted {
        namespace: String,
        name: String,
        uid: String,
        version: u64,
    },
    /// A bookmark: nothing happened, and the watch lives.
    Heard,
    /// A watch began.
    Began,
    /// Listing or watching failed, and is tried again after a pause.
    Failed(Failure),
}

/// Which Leases, and what is kept of them.
#[derive(Clone)]
pub struct Leases {
    connection: Arc<Connection>,
    /// `None`: all.
    namespace: Option<String>,
    /// As the API server understands it; empty: all.
    selector: String,
    /// Whether a label or an annotation of this key is kept.
    keep: fn(&str) -> bool,
    /// For one request.
    timeout: Duration,
}

impl Leases {
    pub fn new(
        connection: Arc<Connection>,
        namespace: Option<String>,
        selector: String,
        keep: fn(&str) -> bool,
        timeout: Duration,
    ) -> Self {
        Leases { connection, namespace, selector, keep, timeout }
    }

    /// Lists and watches until the receiver is gone. `spread` in 0..1 keeps the watches of many pods from ending
    /// together; `pause` is waited after a failure.
    pub async fn watch(&self, pause: Duration, spread: f64, tell: mpsc::Sender<Told>) {
        follow::follow(&Many { leases: self, tell }, pause, spread).await;
    }

    /// All of them as of one version, consistently. Anybody who may write Leases may make them large, so a page that
    /// is too large is asked for again with half as many.
    pub async fn list(&self) -> Result<(Vec<Entry>, u64), Failure> {
        let mut entries = Vec::new();
        let mut next = String::new();
        let mut items = PAGE;
        for _ in 0..MOST_PAGES {
            let mut uri = format!("{}&limit={items}", self.uri_in(self.namespace.as_deref()));
            if !next.is_empty() {
                uri += &format!("&continue={}", escaped(&next));
            }
            let most = if items > 1 { LARGEST_PAGE } else { LARGEST_ANSWER };
            let (page, size) = match self.page(uri, most, &mut entries).await {
                Err(Failure::TooLarge(_)) if items > 1 => {
                    items /= 2;
                    continue;
                }
                other => other?,
            };
            if page.next.is_empty() {
                return Ok((entries, page.version));
            }
            next = page.next;
            // Those that follow may be small again.
            if size < LARGEST_PAGE / 4 {
                items = (items * 2).min(PAGE);
            }
        }
        Err(Failure::NotUnderstood("list of Leases that ends"))
    }

    /// Consistent reads of those of whom nothing else can tell what they are now.
    pub async fn look(&self, doubted: &[Place]) -> Result<Look, Failure> {
        if doubted.len() > READ_ONE_BY_ONE {
            return Ok(Look::All(self.list().await?.0));
        }
        let mut each = Vec::with_capacity(doubted.len());
        for place in doubted {
            let (entry, version) = self.read(&place.namespace, &place.name).await?;
            each.push((place.clone(), entry, version));
        }
        Ok(Look::Each(each))
    }

    /// One of them, or its absence as of a version. It needs no other right than the list.
    async fn read(&self, namespace: &str, name: &str) -> Result<(Option<Entry>, u64), Failure> {
        let uri = format!("{}&fieldSelector=metadata.name%3D{}", self.uri_in(Some(namespace)), escaped(name));
        let mut entries = Vec::new();
        let (page, _) = self.page(uri, LARGEST_ANSWER, &mut entries).await?;
        Ok((entries.pop(), page.version))
    }

    /// A page of `most` bytes at most, and how many it has.
    async fn page(&self, uri: String, most: usize, entries: &mut Vec<Entry>) -> Result<(Page, usize), Failure> {
        let bytes = self.connection.bytes("list", request(Method::GET, uri, None), self.timeout, most).await?;
        Ok((page_of(&bytes, self.keep, entries)?, bytes.len()))
    }

    /// The collection, and the beginning of a query.
    fn uri_in(&self, namespace: Option<&str>) -> String {
        let place = namespace.map(|namespace| format!("/namespaces/{}", escaped(namespace))).unwrap_or_default();
        format!("/apis/coordination.k8s.io/v1{place}/leases?labelSelector={}", escaped(&self.selector))
    }
}

/// Many Leases, and who is told of them.
#[doc(hidden)]
pub struct Many<'a> {
    pub leases: &'a Leases,
    pub tell: mpsc::Sender<Told>,
}

impl Subject for Many<'_> {
    fn connection(&self) -> &Connection {
        &self.leases.connection
    }

    fn timeout(&self) -> Duration {
        self.leases.timeout
    }

    fn uri(&self) -> String {
        self.leases.uri_in(self.leases.namespace.as_deref())
    }

    fn list(&self) -> Later<'_, Result<Option<u64>, Failure>> {
        Box::pin(async {
            let sent_at = SystemClock.boot();
            let (entries, version) = self.leases.list().await?;
            let listens = self.tell.send(Told::Listed { entries, version, sent_at }).await.is_ok();
            Ok(listens.then_some(version))
        })
    }

    fn tell(&self, event: Event) -> Later<'_, Result<bool, Failure>> {
        Box::pin(async {
            let told = match event {
                Event::Present(object, _) => Told::Changed(Box::new(entry_of(&object, self.leases.keep)?)),
                Event::Gone(object, version) => {
                    let Entry { namespace, name, record, .. } = entry_of(&object, self.leases.keep)?;
                    Told::Deleted { namespace, name, uid: record.uid, version }
                }
                Event::Heard => Told::Heard,
                Event::Failed(failure) => Told::Failed(failure),
                Event::Began { .. } => Told::Began,
            };
            Ok(self.tell.send(told).await.is_ok())
        })
    }
}

/// What is kept of an object.
#[doc(hidden)]
pub fn entry_of(object: &Value, keep: fn(&str) -> bool) -> Result<Entry, Failure> {
    let fault = Failure::NotUnderstood("Lease");
    let Ok(record) = lease::record_of(object) else { return Err(fault) };
    let metadata = &object["metadata"];
    let (Some(namespace), Some(name)) = (metadata["namespace"].as_str(), metadata["name"].as_str()) else {
        return Err(fault);
    };
    let kept = |map: &Value| {
        let pairs = map.as_object().into_iter().flatten().filter(|(key, _)| keep(key));
        pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
    };
    Ok(Entry {
        namespace: namespace.into(),
        name: name.into(),
        record,
        labels: kept(&metadata["labels"]),
        annotations: kept(&metadata["annotations"]),
        owner: owner_of(&metadata["ownerReferences"]),
        created: metadata["creationTimestamp"].as_str().and_then(lease::parse_time),
    })
}

fn owner_of(owners: &Value) -> Option<Owner> {
    let owners = owners.as_array()?;
    let owner = owners.iter().find(|owner| lease::is_pod(owner)).or(owners.first())?;
    let text = |key: &str| owner[key].as_str().unwrap_or_default().to_owned();
    Some(Owner { kind: text("kind"), name: text("name"), uid: text("uid") })
}

/// The head of one page of a list.
#[doc(hidden)]
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub version: u64,
    /// Where the next one begins; empty: there is none.
    pub next: String,
}

/// Reads a page, and adds what is kept of its items to `entries`.
#[doc(hidden)]
pub fn page_of(bytes: &[u8], keep: fn(&str) -> bool, entries: &mut Vec<Entry>) -> Result<Page, Failure> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read =
        Reading { items: false, keep, entries }.deserialize(&mut reader).and_then(|head| reader.end().map(|()| head));
    let head = read.map_err(|_| Failure::NotUnderstood("list of Leases"))?;
    let version = head["resourceVersion"].as_str().and_then(|version| version.parse().ok());
    let version = version.ok_or(Failure::NotUnderstood("list of Leases"))?;
    Ok(Page { version, next: head["continue"].as_str().unwrap_or_default().into() })
}

/// Of a list the metadata, of its items what is kept: one item at a time is in memory as it came.
struct Reading<'a> {
    /// Inside of `items`.
    items: bool,
    keep: fn(&str) -> bool,
    entries: &'a mut Vec<Entry>,
}

impl<'de> DeserializeSeed<'de> for Reading<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of Leases, or its items")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        if self.items {
            return Err(A::Error::custom("the items are no list"));
        }
        let mut head = Value::Null;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "metadata" => head = map.next_value()?,
                "items" => {
                    map.next_value_seed(Reading { items: true, keep: self.keep, entries: self.entries })?;
                }
                // Read like the rest: what is no JSON is no list.
                _ => drop(map.next_value::<Value>()?),
            }
        }
        Ok(head)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        while let Some(item) = items.next_element::<Value>()? {
            self.entries.push(entry_of(&item, self.keep).map_err(A::Error::custom)?);
        }
        Ok(Value::Null)
    }

    /// Items of an empty list, as Go writes a list that was never made.
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

/// A part of a URI.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte as char),
            _ => escaped += &format!("%{byte:02X}"),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::membership::{API_SERVER, Kind};

    fn object() -> Value {
        json!({
            "metadata": {
                "name": "apiserver-x", "namespace": "kube-system", "uid": "u-1", "resourceVersion": "41",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {API_SERVER: "kube-apiserver", "team": "a"},
                "annotations": {"zone": "b", "note": "no", lease::TOKEN: "7"},
                "ownerReferences": [{"kind": "Node", "name": "n", "uid": "n-1"}, {"kind": "Pod", "name": "p", "uid": "p-1"}],
                "managedFields": [{"manager": "x"}],
            },
            "spec": {"holderIdentity": "apiserver-x_0", "leaseDurationSeconds": 3600, "renewTime": "2026-01-01T00:00:00.5Z"},
        })
    }

    fn keep(key: &str) -> bool {
        [API_SERVER, "zone"].contains(&key)
    }

    fn read(list: &Value) -> (Result<Page, Failure>, Vec<Entry>) {
        let mut entries = Vec::new();
        (page_of(list.to_string().as_bytes(), keep, &mut entries), entries)
    }

    #[test]
    fn of_a_lease_what_is_asked_for_is_kept_and_nothing_else() {
        let entry = entry_of(&object(), keep).unwrap();
        assert_eq!((entry.namespace.as_str(), entry.name.as_str()), ("kube-system", "apiserver-x"));
        assert_eq!(entry.labels, [(API_SERVER.to_owned(), "kube-apiserver".to_owned())]);
        assert_eq!(entry.annotations, [("zone".to_owned(), "b".to_owned())]);
        assert_eq!(entry.owner, Some(Owner { kind: "Pod".into(), name: "p".into(), uid: "p-1".into() }));
        assert_eq!((entry.kind(), entry.record.token.value()), (Kind::ApiServer, Some(7)));
        assert_eq!(entry.record, lease::record_of(&object()).unwrap());
        for missing in ["name", "namespace", "uid", "resourceVersion"] {
            let mut object = object();
            object["metadata"].as_object_mut().unwrap().remove(missing);
            assert_eq!(entry_of(&object, keep), Err(Failure::NotUnderstood("Lease")), "{missing}");
        }
    }

    #[test]
    fn a_page_says_where_the_next_begins() {
        let metadata = json!({"resourceVersion": "50", "continue": "abc", "remainingItemCount": 2});
        let (page, entries) = read(&json!({"kind": "LeaseList", "items": [object(), object()], "metadata": metadata}));
        assert_eq!(page, Ok(Page { version: 50, next: "abc".into() }));
        assert_eq!(entries, vec![entry_of(&object(), keep).unwrap(); 2]);
        let (page, entries) = read(&json!({"metadata": {"resourceVersion": "7"}, "items": null}));
        assert_eq!((page, entries), (Ok(Page { version: 7, next: String::new() }), Vec::new()));
    }

    #[test]
    fn what_is_no_list_of_leases_is_refused() {
        let head = json!({"resourceVersion": "7"});
        let nested = json!({"metadata": head, "items": {"metadata": head, "items": []}});
        let no_lease = json!({"metadata": head, "items": [object(), 5]});
        for bad in [json!([]), json!(5), json!(null), json!({}), json!({"items": [object()]}), nested, no_lease] {
            assert_eq!(read(&bad).0, Err(Failure::NotUnderstood("list of Leases")), "{bad}");
        }
        let bytes = format!("{} x", json!({"metadata": head}));
        assert!(page_of(bytes.as_bytes(), keep, &mut Vec::new()).is_err());
    }

    #[test]
    fn what_goes_into_a_uri_is_escaped() {
        assert_eq!(escaped("a in (b,c),!d/é"), "a%20in%20%28b%2Cc%29%2C%21d%2F%C3%A9");
        assert_eq!(escaped("kube-node-lease.x_~"), "kube-node-lease.x_~");
    }
}
