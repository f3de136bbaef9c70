//! The Leases, their versions and the recent past.
//!
//! One counter numbers all writes, as etcd's revision does. The last `HISTORY` changes are kept
//! for watches, which are cursors into them: a watch holds no queue of its own, and one that falls
//! behind the window has ended. The counter starts at the wall clock in milliseconds, so that
//! versions (and fencing tokens made from them) grow across a restart too, and a watch from
//! before it is told that its version is too old.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::sync::watch;

use super::lease;
use super::selector::Selector;
use super::status::{Cause, GROUP, Status};

/// Changes kept for watches.
const HISTORY: usize = 1000;
/// Tries with another suffix when a generated name is taken.
const GENERATE_ATTEMPTS: usize = 8;
const SUFFIX_LENGTH: usize = 5;
const GENERATED_NAME_LENGTH: usize = 63;

const MODIFIED: &str = "the object has been modified; please apply your changes to the latest version and try again";

pub struct Store {
    now: fn() -> Timestamp,
    started: Timestamp,
    version: u64,
    leases: BTreeMap<Key, Arc<Lease>>,
    history: VecDeque<Change>,
    /// The newest version that history no longer has: a watch may start here, not before.
    forgotten: u64,
    changed: watch::Sender<u64>,
}

/// Namespace and name.
pub type Key = (String, String);

/// One write. `after` is the record with the write's version, `before` what it replaced.
#[derive(Clone)]
pub struct Change {
    pub version: u64,
    pub before: Option<Arc<Lease>>,
    pub after: Option<Arc<Lease>>,
}

/// What a client asks of a delete.
#[derive(Default)]
pub struct DeleteOptions {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub dry_run: bool,
}

pub enum Updated {
    Created(Arc<Lease>),
    Changed(Arc<Lease>),
}

pub enum Deleted {
    /// Gone; this is what it was.
    Gone(Arc<Lease>),
    /// Marked, and waiting for its finalizers.
    Marked(Arc<Lease>),
}

impl Store {
    pub fn new(now: fn() -> Timestamp) -> Store {
        let started = now();
        let version = u64::try_from(started.as_millisecond()).unwrap_or(1).max(1);
        Store {
            now,
            started,
            version,
            leases: BTreeMap::new(),
            history: VecDeque::new(),
            forgotten: version,
            changed: watch::Sender::new(version),
        }
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn now(&self) -> Timestamp {
        (self.now)()
    }

    pub fn started(&self) -> Timestamp {
        self.started
    }

    /// Wakes at each write.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub fn get(&self, key: &Key) -> Result<Arc<Lease>, Status> {
        self.leases.get(key).cloned().ok_or_else(|| Status::not_found(&key.1))
    }

    pub fn list(&self, selector: &Selector) -> Vec<Arc<Lease>> {
        self.leases.values().filter(|lease| selector.matches(lease)).cloned().collect()
    }

    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.leases.keys().map(|(namespace, _)| namespace.as_str())
    }

    /// The changes after `version`, or `None` if some of them are forgotten.
    pub fn changes_after(&self, version: u64) -> Option<impl Iterator<Item = &Change>> {
        if version < self.forgotten {
            return None;
        }
        let start = self.history.partition_point(|change| change.version <= version);
        Some(self.history.range(start..))
    }

    /// The oldest version that the real server would name in its refusal.
    pub fn oldest_watchable(&self) -> u64 {
        self.forgotten
    }

    pub fn create(&mut self, namespace: &str, mut lease: Lease, dry_run: bool) -> Result<Arc<Lease>, Status> {
        let meta = &mut lease.metadata;
        if meta.name.is_none() && meta.generate_name.is_some() {
            return self.create_with_generated_name(namespace, lease, dry_run);
        }
        meta.uid = None;
        let has_version = meta.resource_version.is_some();
        let lease = self.prepare_new(namespace, lease)?;
        if has_version {
            return Err(Status::unexpected("resourceVersion should not be set on objects to be created"));
        }
        self.insert(lease, dry_run)
    }

    fn create_with_generated_name(
        &mut self,
        namespace: &str,
        lease: Lease,
        dry_run: bool,
    ) -> Result<Arc<Lease>, Status> {
        let prefix = lease.metadata.generate_name.clone().unwrap_or_default();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut named = lease.clone();
            named.metadata.name = Some(generated_name(&prefix));
            let answer = self.create(namespace, named, dry_run);
            match answer {
                Err(status) if status.code == 409 && attempt < GENERATE_ATTEMPTS => {}
                answer => return answer,
            }
        }
    }

    /// Replaces the Lease at `key`, or creates it: a Lease may be created by PUT. `expected_uid`
    /// is the uid in a PUT's body, which is a precondition even where nothing exists.
    pub fn update(
        &mut self,
        key: &Key,
        mut lease: Lease,
        expected_uid: Option<&str>,
        dry_run: bool,
    ) -> Result<Updated, Status> {
        let existing = self.leases.get(key).cloned();
        check_uid(key, existing.as_deref(), expected_uid)?;
        let given_version = parse_version(lease.metadata.resource_version.as_deref())?;
        let Some(existing) = existing else {
            lease.metadata.resource_version = None;
            lease.metadata.uid = None;
            let lease = self.prepare_new(&key.0, lease)?;
            return self.insert(lease, dry_run).map(Updated::Created);
        };
        check_version(key, &existing, given_version)?;
        let lease = inherit(lease, &existing);
        let causes = lease::validate_update(&lease, &existing);
        if !causes.is_empty() {
            return Err(Status::invalid(GROUP, "Lease", &key.1, causes));
        }
        self.replace(key, &existing, lease, dry_run).map(Updated::Changed)
    }

    fn replace(
        &mut self,
        key: &Key,
        existing: &Arc<Lease>,
        mut lease: Lease,
        dry_run: bool,
    ) -> Result<Arc<Lease>, Status> {
        // The last finalizer has gone from a Lease that was to be deleted.
        if lease.metadata.deletion_timestamp.is_some() && lease.metadata.finalizers.is_none() {
            if !dry_run {
                self.remove(key, existing);
            }
            return Ok(Arc::new(lease));
        }
        // Nothing changed: nothing is written, and the version stays.
        if lease == **existing {
            return Ok(Arc::clone(existing));
        }
        if dry_run {
            return Ok(Arc::new(lease));
        }
        let version = self.next_version();
        lease.metadata.resource_version = Some(version.to_string());
        let lease = Arc::new(lease);
        self.leases.insert(key.clone(), Arc::clone(&lease));
        self.record(Change { version, before: Some(Arc::clone(existing)), after: Some(Arc::clone(&lease)) });
        Ok(lease)
    }

    pub fn delete(&mut self, key: &Key, options: &DeleteOptions) -> Result<Deleted, Status> {
        let existing = self.get(key)?;
        check_preconditions(key, &existing, options)?;
        if existing.metadata.finalizers.is_some() {
            return self.mark_deleted(key, &existing, options.dry_run).map(Deleted::Marked);
        }
        if !options.dry_run {
            self.remove(key, &existing);
        }
        Ok(Deleted::Gone(existing))
    }

    fn mark_deleted(&mut self, key: &Key, existing: &Arc<Lease>, dry_run: bool) -> Result<Arc<Lease>, Status> {
        let mut lease = Lease::clone(existing);
        if lease.metadata.deletion_timestamp.is_none() {
            lease.metadata.deletion_timestamp = Some(whole_seconds(self.now()));
            lease.metadata.deletion_grace_period_seconds = Some(0);
        }
        self.replace(key, existing, lease, dry_run)
    }

    fn prepare_new(&self, namespace: &str, mut lease: Lease) -> Result<Lease, Status> {
        let meta = &mut lease.metadata;
        meta.namespace = Some(namespace.to_owned());
        meta.resource_version = None;
        meta.self_link = None;
        meta.uid = Some(random_uid());
        meta.creation_timestamp = Some(whole_seconds(self.now()));
        meta.deletion_timestamp = None;
        meta.deletion_grace_period_seconds = None;
        let lease = without_coordinated_election(lease);
        let causes = lease::validate_new(&lease);
        if causes.is_empty() {
            return Ok(lease);
        }
        let name = lease.metadata.name.as_deref().unwrap_or_default();
        Err(Status::invalid(GROUP, "Lease", name, causes))
    }

    fn insert(&mut self, mut lease: Lease, dry_run: bool) -> Result<Arc<Lease>, Status> {
        let namespace = lease.metadata.namespace.clone().unwrap_or_default();
        let name = lease.metadata.name.clone().unwrap_or_default();
        let key = (namespace, name);
        if let Some(existing) = self.leases.get(&key) {
            let being_deleted = existing.metadata.deletion_timestamp.is_some();
            return Err(Status::already_exists(&key.1, being_deleted));
        }
        if dry_run {
            return Ok(Arc::new(lease));
        }
        let version = self.next_version();
        lease.metadata.resource_version = Some(version.to_string());
        let lease = Arc::new(lease);
        self.leases.insert(key, Arc::clone(&lease));
        self.record(Change { version, before: None, after: Some(Arc::clone(&lease)) });
        Ok(lease)
    }

    fn remove(&mut self, key: &Key, existing: &Arc<Lease>) {
        self.leases.remove(key);
        let version = self.next_version();
        self.record(Change { version, before: Some(Arc::clone(existing)), after: None });
    }

    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn record(&mut self, change: Change) {
        self.history.push_back(change);
        if self.history.len() > HISTORY
            && let Some(oldest) = self.history.pop_front()
        {
            self.forgotten = oldest.version;
        }
        self.changed.send_replace(self.version);
    }
}

/// With the feature gate CoordinatedLeaderElection off, which is the default, the real server
/// drops what belongs to it.
fn without_coordinated_election(mut lease: Lease) -> Lease {
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.strategy = None;
    spec.preferred_holder = None;
    lease
}

/// What an update cannot change is taken from the record that it replaces.
fn inherit(lease: Lease, existing: &Lease) -> Lease {
    let mut lease = without_coordinated_election(lease);
    let (meta, old) = (&mut lease.metadata, &existing.metadata);
    meta.namespace.clone_from(&old.namespace);
    meta.generation = old.generation;
    meta.self_link = None;
    meta.creation_timestamp.clone_from(&old.creation_timestamp);
    if meta.uid.is_none() {
        meta.uid.clone_from(&old.uid);
    }
    if old.deletion_timestamp.is_some() {
        meta.deletion_timestamp.clone_from(&old.deletion_timestamp);
    }
    if meta.deletion_grace_period_seconds.is_none() {
        meta.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    }
    lease
}

fn check_uid(key: &Key, existing: Option<&Lease>, expected: Option<&str>) -> Result<(), Status> {
    let Some(expected) = expected else {
        return Ok(());
    };
    let actual = existing.and_then(|lease| lease.metadata.uid.as_deref()).unwrap_or_default();
    if expected == actual {
        return Ok(());
    }
    let (namespace, name) = key;
    Err(Status::conflict(
        name,
        &format!(
            "StorageError: invalid object, Code: 4, Key: /registry/leases/{namespace}/{name}, ResourceVersion: 0, \
             AdditionalErrorMsg: Precondition failed: UID in precondition: {expected}, UID in object meta: {actual}"
        ),
    ))
}

/// Absent and "0" are the same: no version.
fn parse_version(version: Option<&str>) -> Result<u64, Status> {
    let text = version.unwrap_or("0");
    text.parse().map_err(|_| Status::unexpected(format!("strconv.ParseUint: parsing \"{text}\": invalid syntax")))
}

fn check_version(key: &Key, existing: &Lease, given: u64) -> Result<(), Status> {
    if given == 0 {
        let rule = "must be specified for an update";
        let cause = Cause::invalid("metadata.resourceVersion", &0.into(), rule);
        return Err(Status::invalid(GROUP, "leases", &key.1, vec![cause]));
    }
    if existing.metadata.resource_version != Some(given.to_string()) {
        return Err(Status::conflict(&key.1, MODIFIED));
    }
    Ok(())
}

fn check_preconditions(key: &Key, existing: &Lease, options: &DeleteOptions) -> Result<(), Status> {
    let uid = existing.metadata.uid.as_deref().unwrap_or_default();
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        let why = format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). \
             The object might have been deleted and then recreated"
        );
        return Err(Status::precondition_failed(&key.1, &why));
    }
    let version = existing.metadata.resource_version.as_deref().unwrap_or_default();
    if let Some(wanted) = options.resource_version.as_deref().filter(|wanted| *wanted != version) {
        let why = format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). \
             The object might have been modified"
        );
        return Err(Status::precondition_failed(&key.1, &why));
    }
    Ok(())
}

fn whole_seconds(time: Timestamp) -> Time {
    // A second that is in range as a timestamp stays in range without its fraction.
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

fn generated_name(prefix: &str) -> String {
    // No vowels and no lookalikes, as the real server's suffixes.
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let kept: String = prefix.chars().take(GENERATED_NAME_LENGTH - SUFFIX_LENGTH).collect();
    let suffix = random_bytes::<SUFFIX_LENGTH>().map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
    format!("{kept}{}", String::from_iter(suffix))
}

/// A version 4 UUID (RFC 9562).
fn random_uid() -> String {
    let mut bytes = random_bytes::<16>();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // The kernel gives up to 256 bytes whole once its pool is ready, which it is long before any
    // program of a user's runs.
    let _ = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    bytes
}
