//! A member writes the Lease of the pod that its token is bound to: a thief bears the same role, in a pod of its own, and
//! tries to take, make, rename and delete others'.

use std::time::Duration;

use leasehold::membership::name::lease_name;
use serde_json::{Value, json};

use crate::cluster::*;
use crate::support::clock::{wait_for, wait_until};
use crate::support::helm;
use crate::support::http::Answer;
use crate::support::sidecar::Sidecar;
use crate::support::stage::SOON;

const ROLE: &str = "leasehold-member";
const CANDIDATE: &str = "leasehold-candidate";
const MEMBER_OF: &str = "leasehold.dev/member-of";
const GROUP: &str = "web";

/// The account `web` with two pods.
struct Pods<'a> {
    namespace: Namespace<'a>,
}

/// Who asks: a pod by its own token, or an account by one that is bound to none.
struct Asker<'a> {
    namespace: &'a Namespace<'a>,
    pod: &'a str,
    token: String,
}

impl Pods<'static> {
    fn new(prefix: &str) -> Self {
        let namespace = cluster().namespace(prefix);
        namespace.account("web");
        for name in ["web-0", "web-1"] {
            let mut pod = with(pod(None), json!({"spec": {"serviceAccountName": "web"}}));
            pod["metadata"] = json!({"name": name});
            let path = format!("/api/v1/namespaces/{}/pods", namespace.name);
            let answer = cluster().control_plane.api("POST", &path, Some(&pod)).expect("the API server answers");
            assert_eq!(answer.status, 201, "{}", answer.text());
        }
        Self { namespace }
    }

    /// Both bear the role, which counts and is guarded from here on.
    fn members(prefix: &str) -> Self {
        let pods = Self::new(prefix);
        pods.namespace.bind(ROLE, "web");
        pods.wait_guarded();
        pods
    }

    fn wait_guarded(&self) {
        let pod = self.pod("web-0");
        wait_until("the role and its guard", Duration::from_secs(30), || {
            let own = pod.rehearse(&member("web-0")).status;
            own == 201 && pod.rehearse(&held(member("web-0"), "web-1_x")).status == 422
        });
    }

    fn pod<'a>(&'a self, pod: &'a str) -> Asker<'a> {
        Asker { namespace: &self.namespace, pod, token: self.namespace.token("web", Some(pod)) }
    }
}

impl Asker<'_> {
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let answer = self.namespace.cluster.control_plane.api_with_token(&self.token, method, path, body);
        answer.expect("the API server answers")
    }

    fn leases(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace.name)
    }

    fn path(&self, lease: &Value) -> String {
        format!("{}/{}", self.leases(), name_of(lease))
    }

    fn rehearse(&self, lease: &Value) -> Answer {
        self.ask("PUT", &format!("{}?dryRun=All", self.path(lease)), Some(lease))
    }

    /// Creates it, or writes to the version that is there.
    fn put(&self, lease: &Value) -> Answer {
        let mut lease = lease.clone();
        if let Some(read) = self.read(&lease) {
            lease["metadata"]["resourceVersion"] = read["metadata"]["resourceVersion"].clone();
        }
        self.ask("PUT", &self.path(&lease), Some(&lease))
    }

    fn delete(&self, lease: &Value) -> Answer {
        self.ask("DELETE", &self.path(lease), None)
    }

    fn read(&self, lease: &Value) -> Option<Value> {
        self.namespace.cluster.control_plane.lease(&self.namespace.name, name_of(lease))
    }

    /// It is refused with this sentence, and nothing has changed.
    #[track_caller]
    fn cannot_put(&self, lease: &Value, sentence: &str) {
        let before = self.read(lease);
        guarded(&self.put(lease), sentence);
        assert_eq!(self.read(lease), before);
    }

    #[track_caller]
    fn cannot_delete(&self, lease: &Value, sentence: &str) {
        let before = self.read(lease);
        guarded(&self.delete(lease), sentence);
        assert!(before.is_some() && self.read(lease) == before);
    }
}

/// As the sidecar of this pod writes it.
fn member(pod: &str) -> Value {
    member_of(GROUP, pod)
}

fn member_of(group: &str, pod: &str) -> Value {
    let mut lease = lease(&lease_name(group, pod), &format!("{pod}_0011223344556677"));
    lease["metadata"]["labels"] = json!({ MEMBER_OF: group });
    lease
}

fn lease(name: &str, holder: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 40},
    })
}

fn held(lease: Value, holder: &str) -> Value {
    with(lease, json!({"spec": {"holderIdentity": holder}}))
}

fn named(lease: Value, name: &str) -> Value {
    with(lease, json!({"metadata": {"name": name}}))
}

fn labelled(lease: Value, group: &str) -> Value {
    with(lease, json!({"metadata": {"labels": {MEMBER_OF: group}}}))
}

fn unlabelled(mut lease: Value) -> Value {
    lease["metadata"]["labels"] = json!({"team": "a"});
    lease
}

fn name_of(lease: &Value) -> &str {
    lease["metadata"]["name"].as_str().expect("a name")
}

#[track_caller]
fn refused_by(policy: &str, answer: &Answer, sentence: &str) {
    assert_eq!(answer.status, 422, "{}", answer.text());
    let message = answer.json()["message"].as_str().expect("a message").to_owned();
    assert!(message.contains(policy) && message.contains(sentence), "{sentence:?}: {message}");
}

/// Refused by the guard of members, with this in its sentence.
#[track_caller]
fn guarded(answer: &Answer, sentence: &str) {
    refused_by("leasehold-member-lease", answer, sentence);
}

#[track_caller]
fn allowed(answer: &Answer) {
    assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
}

#[test]
fn a_pod_makes_renews_mends_and_deletes_its_own_lease() {
    let pods = Pods::members("own");
    let pod = pods.pod("web-0");
    let own = member("web-0");
    allowed(&pod.put(&own));
    allowed(&pod.put(&with(own.clone(), json!({"metadata": {"annotations": {"zone": "a"}}}))));
    // By the pod's next sidecar, or by the pod that was made anew under its name.
    allowed(&pod.put(&held(own.clone(), "web-0_8899aabbccddeeff")));
    // Somebody who may has taken the label, or all of the holder, away.
    let control_plane = &cluster().control_plane;
    let gone = json!({"metadata": {"labels": {MEMBER_OF: null}}});
    control_plane.patch_lease(&pod.namespace.name, name_of(&own), &gone);
    allowed(&pod.put(&own));
    control_plane.patch_lease(&pod.namespace.name, name_of(&own), &json!({"spec": {"holderIdentity": ""}}));
    allowed(&pod.put(&own));
    allowed(&pod.delete(&own));
    assert_eq!(pod.read(&own), None);
    allowed(&pod.ask("POST", &pod.leases(), Some(&own)));
    // In any group: names, in which dots and hyphens stand, are told apart.
    for group in ["web-api", "shop.web", "0"] {
        allowed(&pod.put(&member_of(group, "web-0")));
    }
}

#[test]
fn a_token_that_is_bound_to_no_pod_is_no_member() {
    let pods = Pods::members("unbound");
    let own = member("web-0");
    let unbound = Asker { namespace: &pods.namespace, pod: "", token: pods.namespace.token("web", None) };
    unbound.cannot_put(&own, "is bound to no pod");
    allowed(&pods.pod("web-0").put(&own));
    unbound.cannot_put(&own, "is bound to no pod");
    unbound.cannot_delete(&own, "is bound to no pod");
}

#[test]
fn no_lease_is_made_or_renewed_in_another_pods_name() {
    let pods = Pods::members("holder");
    let pod = pods.pod("web-0");
    for own in [member("web-0"), member("web-1")] {
        for holder in ["web-1_0011223344556677", "web-1", "web-00_x", "web-0.x", "", "_web-0"] {
            let shown = holder.split('_').next().expect("a part");
            let sentence = format!("would be the pod \"{shown}\", and the token is that of web-0");
            pod.cannot_put(&held(own.clone(), holder), &sentence);
        }
    }
    let mut unheld = member("web-0");
    unheld["spec"] = json!({"leaseDurationSeconds": 40});
    pod.cannot_put(&unheld, "would be the pod \"\"");
    allowed(&pod.put(&member("web-0")));
    pod.cannot_put(&held(member("web-0"), "web-1_x"), "would be the pod \"web-1\"");
}

#[test]
fn a_thief_cannot_take_or_delete_another_members_lease() {
    let pods = Pods::members("thief");
    let (owner, thief) = (pods.pod("web-1"), pods.pod("web-0"));
    let own = member("web-1");
    allowed(&owner.put(&own));
    let sentence = "is that of the pod \"web-1\", and the token is that of web-0";
    thief.cannot_put(&held(own.clone(), "web-0_x"), sentence);
    // As it is, and beginning with what was just read.
    thief.cannot_put(&own, "would be the pod \"web-1\"");
    let mut seen = thief.ask("GET", &thief.path(&own), None).json();
    seen["spec"]["holderIdentity"] = "web-0_x".into();
    guarded(&thief.ask("PUT", &thief.path(&own), Some(&seen)), sentence);
    thief.cannot_delete(&own, sentence);
    for (method, path) in [("PATCH", thief.path(&own)), ("DELETE", thief.leases())] {
        let patch = json!({"spec": {"holderIdentity": "web-0_x"}});
        let answer = thief.ask(method, &path, Some(&patch).filter(|_| method == "PATCH"));
        assert_eq!(answer.status, 403, "{}", answer.text());
    }
    // Nobody's to delete, while nobody holds it.
    let nobody = json!({"spec": {"holderIdentity": ""}});
    cluster().control_plane.patch_lease(&pods.namespace.name, name_of(&own), &nobody);
    thief.cannot_delete(&own, "is that of the pod \"\"");
    owner.cannot_delete(&own, "is that of the pod \"\"");
    allowed(&owner.put(&own));
    allowed(&owner.delete(&own));
}

#[test]
fn what_has_no_members_label_is_out_of_reach_and_the_label_stays() {
    let pods = Pods::members("label");
    let pod = pods.pod("web-0");
    let own = member("web-0");
    let sentence = "is no member's: with the role leasehold-member a pod writes Leases that have the label";
    pod.cannot_put(&unlabelled(own.clone()), sentence);
    pod.cannot_put(&labelled(own.clone(), ""), sentence);
    // An election's, under the pod's own name as well.
    let election = lease("web", "web-0_x");
    pod.cannot_put(&election, sentence);
    let stored = cluster().control_plane.api("POST", &pod.leases(), Some(&election));
    assert_eq!(stored.expect("the API server answers").status, 201);
    pod.cannot_put(&election, sentence);
    pod.cannot_put(&labelled(election.clone(), "web"), "is named as no member of the group web is");
    pod.cannot_delete(&election, sentence);

    allowed(&pod.put(&own));
    pod.cannot_put(&unlabelled(own.clone()), "is a member's, and would not be one any more");
    let of_another = "is named as no member of the group";
    pod.cannot_put(&labelled(own.clone(), "db"), of_another);
    allowed(&pod.delete(&own));
    // Where the one group's name begins with the other's.
    let api = member_of("web-api", "web-0");
    allowed(&pod.put(&api));
    pod.cannot_put(&labelled(api.clone(), "web"), of_another);
    allowed(&pod.delete(&api));
}

#[test]
fn a_members_lease_is_named_after_its_group() {
    let pods = Pods::members("name");
    let pod = pods.pod("web-0");
    let hash = "abcdefghijklmnopqrstuvwxyz";
    for name in [
        "web".to_owned(),
        "web-api".into(),
        hash.into(),
        format!("web{hash}"),
        format!("db-{hash}"),
        format!("web-api-{hash}"),
        format!("web-{}", &hash[1..]),
        format!("web-{hash}a"),
        format!("web-{}1", &hash[1..]),
        format!("web-{}.{}", &hash[..12], &hash[13..]),
    ] {
        pod.cannot_put(&named(member("web-0"), &name), "is named as no member of the group web is");
    }
    // That it is this pod's hash, no expression can compute.
    allowed(&pod.put(&named(member("web-0"), &format!("web-{hash}"))));
}

/// What the chart for workloads grants: a member by the same right, and a candidate for one Lease.
fn role_of_the_chart(namespace: &Namespace, more: &[&str]) {
    let values =
        ["--set=members.enabled=true,lease.name=web,serviceAccount.name=web", "--show-only=templates/rbac.yaml"];
    let arguments = [&["-n", &namespace.name][..], &values, more].concat();
    cluster().apply(&helm::template("web", "leasehold", &arguments).expect("it renders"));
}

#[test]
fn beside_it_the_elections_lease_is_written_and_no_other_one() {
    let pods = Pods::new("election");
    role_of_the_chart(&pods.namespace, &[]);
    pods.wait_guarded();
    let pod = pods.pod("web-0");
    let election = lease("web", "web-0_x");
    allowed(&pod.put(&election));
    // Another candidate's, who writes it as the election's rules have it: no matter of this guard.
    allowed(&pods.pod("web-1").put(&held(election.clone(), "web-1_x")));
    allowed(&pod.put(&held(election.clone(), "")));
    let sentence = "is no member's";
    pod.cannot_delete(&election, sentence);
    for other in ["db", "web-reports", "webs"] {
        pod.cannot_put(&lease(other, "web-0_x"), sentence);
    }
    let own = member("web-0");
    allowed(&pod.put(&own));
    allowed(&pod.delete(&own));

    // The name of a member's Lease does not become an election's by being one's own.
    let other = Pods::new("alone");
    let alone = "--set=lease.enabled=false,lease.create=true,app.image.repository=shop";
    role_of_the_chart(&other.namespace, &[alone]);
    other.wait_guarded();
    other.pod("web-0").cannot_put(&lease("web", "web-0_x"), sentence);

    // Nor does a member's Lease become an election's by the name that a candidate bears.
    let third = Pods::new("namesake");
    let theirs = member("web-1");
    role_of_the_chart(&third.namespace, &[&format!("--set=lease.name={}", name_of(&theirs))]);
    third.wait_guarded();
    allowed(&third.pod("web-1").put(&theirs));
    let taken = held(unlabelled(theirs.clone()), "web-0_x");
    third.pod("web-0").cannot_put(&taken, "is a member's, and would not be one any more");
    allowed(&third.pod("web-1").delete(&theirs));
    allowed(&third.pod("web-0").put(&taken));
}

#[test]
fn who_bears_both_roles_is_held_to_each_where_it_is_due() {
    let pods = Pods::members("both");
    pods.namespace.bind(CANDIDATE, "web");
    let (pod, other) = (pods.pod("web-0"), pods.pod("web-1"));
    wait_until("both roles and their guards", Duration::from_secs(30), || {
        pod.rehearse(&lease("web", "me")).status == 201 && pod.rehearse(&lease("db", "me")).status == 422
    });
    allowed(&pod.put(&lease("web", "web-0_x")));
    refused_by("leasehold-lease-name", &pod.put(&lease("db", "web-0_x")), "and this is db");
    pod.cannot_delete(&lease("web", ""), "is no member's");
    // A group of another name than the account's is a member's business, and a group of the account's no candidate's.
    allowed(&pod.put(&member_of("shop", "web-0")));
    let theirs = member("web-1");
    allowed(&other.put(&theirs));
    let sentence = "is that of the pod \"web-1\"";
    pod.cannot_put(&held(theirs.clone(), "web-0_x"), sentence);
    pod.cannot_delete(&theirs, sentence);
    // Both have something against this, and either may say it.
    let before = pod.read(&theirs);
    refused_by("leasehold-", &pod.put(&held(unlabelled(theirs.clone()), "web-0_x")), "is a member's");
    assert_eq!(pod.read(&theirs), before);
}

#[test]
fn a_candidate_who_is_no_member_leaves_members_leases_alone() {
    let pods = Pods::members("candidate");
    pods.namespace.account("shop");
    pods.namespace.bind(CANDIDATE, "shop");
    let shop = Asker { namespace: &pods.namespace, pod: "", token: pods.namespace.token("shop", None) };
    wait_until("the role and its guard", Duration::from_secs(30), || {
        shop.rehearse(&lease("shop", "me")).status == 201 && shop.rehearse(&lease("db", "me")).status == 422
    });
    let sentence = "is a member's, by its label leasehold.dev/member-of";
    let forged = member_of("shop", "web-0");
    refused_by("leasehold-lease-name", &shop.put(&forged), sentence);
    allowed(&pods.pod("web-0").put(&forged));
    refused_by("leasehold-lease-name", &shop.put(&held(forged.clone(), "thief_x")), sentence);
    refused_by("leasehold-lease-name", &shop.put(&unlabelled(forged)), sentence);
    allowed(&shop.put(&lease("shop-reports", "me")));
}

#[test]
fn an_account_of_another_namespace_has_no_pod_here() {
    let shop = Pods::members("host");
    let elsewhere = Pods::new("guest");
    let subject = json!({"kind": "ServiceAccount", "name": "web", "namespace": elsewhere.namespace.name});
    shop.namespace.bind_subject(ROLE, "guest", subject);
    // Its pod has the same name.
    let guest = Asker { namespace: &shop.namespace, ..elsewhere.pod("web-0") };
    let own = member("web-0");
    wait_until("the role", Duration::from_secs(30), || guest.rehearse(&own).status != 403);
    let sentence = "bears the role leasehold-member in the namespace";
    guest.cannot_put(&own, sentence);
    allowed(&shop.pod("web-0").put(&own));
    guest.cannot_put(&own, sentence);
    guest.cannot_delete(&own, sentence);
}

#[test]
fn who_does_not_bear_the_role_is_not_held_to_it() {
    let pods = Pods::members("bystander");
    let control_plane = &cluster().control_plane;
    let theirs = member("web-1");
    allowed(&pods.pod("web-1").put(&theirs));
    // A controller with a right of its own, and one that bears the role and may patch Leases by another.
    pods.namespace.account("controller");
    pods.namespace.account("trusted");
    pods.namespace.bind(ROLE, "trusted");
    for (account, verbs) in [("controller", json!(["create", "update", "delete"])), ("trusted", json!(["patch"]))] {
        let user = format!("system:serviceaccount:{}:{account}", pods.namespace.name);
        let rule = json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs}]);
        control_plane.allow(&pods.namespace.name, &user, rule);
        let asker = Asker { namespace: &pods.namespace, pod: "", token: pods.namespace.token(account, None) };
        wait_until("the other role", Duration::from_secs(30), || asker.rehearse(&lease("a-lock", "me")).status == 201);
        allowed(&asker.put(&lease("a-lock", "me")));
        allowed(&asker.put(&held(theirs.clone(), "web-1_by-hand")));
        allowed(&asker.delete(&lease("a-lock", "")));
    }
    let admin = control_plane.api("DELETE", &pods.pod("web-0").path(&theirs), None).expect("the API server answers");
    allowed(&admin);
}

/// The program itself under the guards, with what the chart for workloads grants and a pod's own token.
#[test]
fn the_sidecar_leads_and_is_a_member_under_the_guards() {
    let pods = Pods::new("sidecar");
    let namespace = &pods.namespace.name;
    role_of_the_chart(&pods.namespace, &[]);
    pods.wait_guarded();
    let control_plane = &cluster().control_plane;
    let mut sidecars: Vec<_> = ["web-0", "web-1"].map(|pod| start(&pods.pod(pod))).into();
    let lives = |sidecar: &Sidecar| sidecar.get("/v1/members").json()["count"].as_u64();
    for sidecar in &sidecars {
        wait_until("both live, as each sees it", SOON, || lives(sidecar) == Some(2));
    }
    let leads = |sidecar: &Sidecar| sidecar.get("/leader").status == 200;
    let leader = wait_for("one of them to lead", SOON, || sidecars.iter().position(leads));
    let mut first = sidecars.swap_remove(leader);
    let own = lease_name(GROUP, first.pod());
    // Renewed, and its label mended.
    control_plane.patch_lease(namespace, &own, &json!({"metadata": {"labels": {MEMBER_OF: null}}}));
    wait_for("the label", SOON, || {
        control_plane.lease(namespace, &own).filter(|lease| lease["metadata"]["labels"][MEMBER_OF] == GROUP)
    });
    first.sigterm();
    assert!(first.wait(Duration::from_secs(30)).success());
    assert_eq!(control_plane.lease(namespace, &own), None);
    wait_until("the other one leads, and is alone", SOON, || leads(&sidecars[0]) && lives(&sidecars[0]) == Some(1));
    let refusals = [&first, &sidecars[0]].map(|sidecar| sidecar.count_log(&["ValidatingAdmissionPolicy"]));
    assert_eq!(refusals, [0, 0]);
}

fn start(asker: &Asker) -> Sidecar {
    let kubeconfig = cluster().control_plane.kubeconfig_edited(|config| {
        config["users"][0]["user"] = json!({"token": asker.token});
    });
    Sidecar::of("web", &asker.namespace.name, &kubeconfig, asker.pod)
        .flag("--member-of", GROUP)
        .flag("--member-lease-duration", "10s")
        .flag("--member-renew-interval", "1s")
        .env("POD_NAMESPACE", &asker.namespace.name)
        .start()
}
