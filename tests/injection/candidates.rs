//! A candidate writes Leases of its service account's name: a thief bears the role and tries to take another's.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::*;
use crate::support::clock::wait_until;
use crate::support::http::Answer;

const ROLE: &str = "leasehold-candidate";

fn leases(namespace: &Namespace) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", namespace.name)
}

fn lease(name: &str, holder: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15},
    })
}

/// A service account and what it may do.
struct Account<'a> {
    namespace: &'a Namespace<'a>,
    token: String,
}

impl<'a> Account<'a> {
    fn new(namespace: &'a Namespace, name: &str) -> Self {
        namespace.account(name);
        Self { namespace, token: namespace.token(name, None) }
    }

    /// One that bears the role, which counts and is guarded from here on.
    fn candidate(namespace: &'a Namespace, name: &str) -> Self {
        let account = Self::new(namespace, name);
        namespace.bind(ROLE, name);
        wait_until("the role and its guard", Duration::from_secs(30), || {
            let [own, other] = [name, "nobody-s"].map(|lease| account.put_dry(lease));
            own.status == 201 && other.status == 422 && account.put_dry(&format!("{name}.x")).status == 422
        });
        account
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let control_plane = &self.namespace.cluster.control_plane;
        control_plane.api_with_token(&self.token, method, path, body).expect("the API server answers")
    }

    fn put_dry(&self, name: &str) -> Answer {
        let path = format!("{}/{name}?dryRun=All", leases(self.namespace));
        self.ask("PUT", &path, Some(&lease(name, "me")))
    }

    /// Creates it, or writes to the version that is there.
    fn put(&self, name: &str) -> Answer {
        let path = format!("{}/{name}", leases(self.namespace));
        let mut lease = lease(name, "me");
        let read = self.namespace.cluster.control_plane.lease(&self.namespace.name, name);
        if let Some(read) = read {
            lease["metadata"]["resourceVersion"] = read["metadata"]["resourceVersion"].clone();
        }
        self.ask("PUT", &path, Some(&lease))
    }

    fn post(&self, lease: &Value) -> Answer {
        self.ask("POST", &leases(self.namespace), Some(lease))
    }
}

/// Refused by the guard, with this in its sentence.
#[track_caller]
fn guarded(answer: &Answer, sentence: &str) {
    assert_eq!(answer.status, 422, "{}", answer.text());
    let message = answer.json()["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("leasehold-lease-name") && message.contains(sentence), "{sentence:?}: {message}");
}

#[track_caller]
fn allowed(answer: &Answer) {
    assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
}

#[test]
fn a_candidate_makes_and_renews_the_leases_of_its_name() {
    let shop = cluster().namespace("own");
    let web = Account::candidate(&shop, "web");
    allowed(&web.put("web"));
    allowed(&web.put("web"));
    allowed(&web.post(&lease("web-reports", "me")));
    allowed(&web.put("web-reports"));
    allowed(&web.put("web-a-b-c-d-e-f-g-h"));
    guarded(&web.put("web-a-b-c-d-e-f-g-h-i"), "more than 8 parts after web");
    guarded(
        &web.put("webshop"),
        "the service account web is a candidate for the Leases web and web-*, and this is webshop",
    );
    // The API server chooses the end of such a name, before the guard looks.
    let mut generated = lease("", "me");
    generated["metadata"] = json!({"generateName": "web-"});
    allowed(&web.post(&generated));
    generated["metadata"] = json!({"generateName": "we"});
    guarded(&web.post(&generated), "and this is we");
}

#[test]
fn a_thief_cannot_take_anothers_lease_in_any_way() {
    let shop = cluster().namespace("thief");
    let web = Account::candidate(&shop, "web");
    let thief = Account::candidate(&shop, "thief");
    let sentence = "the service account thief is a candidate for the Leases thief and thief-*, and this is web";
    // Before it is there,
    guarded(&thief.put("web"), sentence);
    guarded(&thief.post(&lease("web", "thief")), sentence);
    allowed(&web.put("web"));
    let path = format!("{}/web", leases(&shop));
    let read = || shop.cluster.control_plane.api("GET", &path, None).expect("the API server answers").json();
    let before = read();
    // and while somebody holds it, by the version just read too.
    guarded(&thief.put("web"), sentence);
    let mut seen = thief.ask("GET", &path, None).json();
    seen["spec"]["holderIdentity"] = "thief".into();
    guarded(&thief.ask("PUT", &path, Some(&seen)), sentence);
    let patch = json!({"spec": {"holderIdentity": "thief"}});
    for (method, body) in [("PATCH", Some(&patch)), ("DELETE", None)] {
        let answer = thief.ask(method, &path, body);
        assert_eq!(answer.status, 403, "{}", answer.text());
    }
    assert_eq!(thief.ask("DELETE", &leases(&shop), None).status, 403);
    assert_eq!(read(), before);
}

#[test]
fn of_two_candidates_the_longer_name_owns_the_lease() {
    let shop = cluster().namespace("longer");
    let web = Account::candidate(&shop, "web");
    allowed(&web.put_dry("web-api"));
    allowed(&web.put_dry("web-api-v2-reports"));
    let api = Account::candidate(&shop, "web-api");
    let v2 = Account::candidate(&shop, "web-api-v2");
    guarded(&web.put("web-api"), "the Lease web-api is the service account web-api's and not web's");
    guarded(&web.put("web-api-reports"), "the Lease web-api-reports is the service account web-api's");
    guarded(&web.put("web-api-v2"), "is the service account web-api-v2's");
    guarded(&api.put("web-api-v2-reports"), "is the service account web-api-v2's and not web-api's");
    guarded(&api.put("web"), "is a candidate for the Leases web-api and web-api-*");
    allowed(&web.put("web-apis"));
    allowed(&api.put("web-api-reports"));
    allowed(&v2.put("web-api-v2-reports"));
}

#[test]
fn where_every_account_is_a_candidate_each_has_the_lease_of_its_own_name() {
    let shop = cluster().namespace("everybody");
    let group = format!("system:serviceaccounts:{}", shop.name);
    let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group});
    shop.bind_subject(ROLE, "everybody", subject);
    let web = Account::candidate(&shop, "web");
    allowed(&web.put("web"));
    // There might be an account of that name.
    guarded(&web.put("web-reports"), "the Lease web-reports is the service account web-reports's");
    guarded(&web.put("db"), "and this is db");

    // A controller there with a Lease of another name goes on when its own role may patch it.
    let operator = Account::new(&shop, "operator");
    let user = format!("system:serviceaccount:{}:operator", shop.name);
    let rule = json!([{
        "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["0a1b2c.example.com"],
        "verbs": ["patch", "get", "update"],
    }]);
    shop.cluster.control_plane.allow(&shop.name, &user, rule);
    allowed(&operator.put("0a1b2c.example.com"));
    guarded(&operator.put("web"), "and this is web");
}

#[test]
fn who_does_not_bear_the_role_is_not_held_to_it() {
    let shop = cluster().namespace("bystander");
    let elsewhere = cluster().namespace("elsewhere");
    // In force here, or nothing would be shown.
    Account::candidate(&shop, "web");
    let rule = json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create", "update"]}]);
    for (account, namespace) in [("controller", &shop), ("roaming", &elsewhere)] {
        namespace.account(account);
        let user = format!("system:serviceaccount:{}:{account}", namespace.name);
        shop.cluster.control_plane.allow(&shop.name, &user, rule.clone());
        let account = Account { namespace: &shop, token: namespace.token(account, None) };
        allowed(&account.put("web"));
        allowed(&account.put("a-lock"));
    }
    // Nor an administrator.
    shop.cluster.control_plane.patch_lease(&shop.name, "web", &json!({"metadata": {"labels": {"seen": "yes"}}}));
}

#[test]
fn an_account_of_another_namespace_has_no_name_here() {
    let shop = cluster().namespace("host");
    let elsewhere = cluster().namespace("guest");
    let web = Account::candidate(&shop, "web");
    elsewhere.account("web");
    let subject = json!({"kind": "ServiceAccount", "name": "web", "namespace": elsewhere.name});
    shop.bind_subject(ROLE, "guest", subject);
    let guest = Account { namespace: &shop, token: elsewhere.token("web", None) };
    wait_until("the role", Duration::from_secs(30), || guest.put_dry("web").status != 403);
    guarded(&guest.put("web"), "bears the role leasehold-candidate");
    allowed(&web.put("web"));
}

/// The role bound in the whole cluster, by mistake, to an account and to a node.
#[test]
fn nodes_heartbeats_are_out_of_reach_of_candidates_and_kubelets_are_not_asked() {
    let shop = cluster().namespace("everywhere");
    shop.account("web");
    let node = format!("system:node:{}", shop.name);
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": shop.name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE},
        "subjects": [
            {"kind": "ServiceAccount", "name": "web", "namespace": shop.name},
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": node},
        ],
    });
    cluster().apply(&binding.to_string());
    let web = Account { namespace: &shop, token: shop.token("web", None) };
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}", shop.name);
    let put = || web.ask("PUT", &path, Some(&lease(&shop.name, "web")));
    // The guard is in force some moments after it was made: what is written before that would stay.
    let rehearsed = || web.ask("PUT", &format!("{path}?dryRun=All"), Some(&lease(&shop.name, "web")));
    wait_until("the role and the guard", Duration::from_secs(30), || rehearsed().status == 422);
    guarded(&put(), "bears the role leasehold-candidate in the namespace kube-node-lease, and is no service account");

    // A kubelet that bears it as well would be refused in the same way if the guard asked about it.
    let mut heartbeat = lease(&shop.name, &shop.name);
    heartbeat["metadata"]["namespace"] = "kube-node-lease".into();
    let control_plane = &cluster().control_plane;
    let file = control_plane.write_file("heartbeat.yaml", &heartbeat.to_string());
    let acting =
        [&format!("--as={node}"), "--as-group=system:nodes", "--validate=false", "-f", &file.to_string_lossy()];
    for verb in ["create", "replace"] {
        control_plane.run_kubectl(&[&[verb], &acting[..]].concat());
    }
    let mut seen = web.ask("GET", &path, None).json();
    assert_eq!(seen["spec"]["holderIdentity"], shop.name.as_str());
    seen["spec"]["holderIdentity"] = "web".into();
    guarded(&web.ask("PUT", &path, Some(&seen)), "bears the role leasehold-candidate in the namespace kube-node-lease");
}

/// The built-in role `admin` as the controller-manager would put it together: none runs here.
fn administrator(namespace: &Namespace, without: &str) -> String {
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let control_plane = &namespace.cluster.control_plane;
    let roles = control_plane.api("GET", path, None).expect("the API server answers").json();
    let aggregated = |role: &Value| {
        let labels = &role["metadata"]["labels"];
        let to = |role: &str| labels[format!("rbac.authorization.k8s.io/aggregate-to-{role}")] == "true";
        role["metadata"]["name"] != without && ["admin", "edit", "view"].into_iter().any(to)
    };
    let roles = roles["items"].as_array().expect("roles").iter().filter(|role| aggregated(role));
    let rules: Vec<_> = roles.flat_map(|role| role["rules"].as_array().cloned().unwrap_or_default()).collect();
    let name = format!("admin-{}", namespace.name);
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules,
    });
    let answer = control_plane.api("POST", path, Some(&role)).expect("the API server answers");
    assert_eq!(answer.status, 201, "{}", answer.text());
    name
}

#[test]
fn a_namespaces_administrator_binds_the_roles_and_is_not_held_to_them() {
    let shop = cluster().namespace("administered");
    let role = administrator(&shop, "");
    let boss = Account::new(&shop, "boss");
    shop.bind(&role, "boss");
    let bindings = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings", shop.name);
    let bind = |boss: &Account, role: &str| {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"generateName": "by-the-boss-"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "web", "namespace": boss.namespace.name}],
        });
        let bindings = bindings.replace(&shop.name, &boss.namespace.name);
        boss.ask("POST", &bindings, Some(&binding))
    };
    wait_until("the role admin", Duration::from_secs(30), || boss.ask("GET", &bindings, None).status == 200);
    for role in [ROLE, "leasehold-member", "leasehold-role-label"] {
        allowed(&bind(&boss, role));
    }
    shop.account("web");
    let web = Account { namespace: &shop, token: shop.token("web", None) };
    wait_until("what the boss bound", Duration::from_secs(30), || web.put_dry("web").status == 201);
    wait_until("its guard", Duration::from_secs(30), || web.put_dry("other").status == 422);
    // It holds the verbs by which the guards know candidates, and the rights that exempt it.
    allowed(&boss.put("anything"));
    allowed(&boss.put("web"));
    allowed(&boss.put("web"));
    let pod = with(pod(None), json!({"metadata": {"name": "app", "labels": {"leasehold.dev/inject": "false"}}}));
    let pods = format!("/api/v1/namespaces/{}/pods", shop.name);
    allowed(&boss.ask("POST", &pods, Some(&pod)));
    let patch = json!({"metadata": {"annotations": {"team": "b"}, "labels": {"leasehold.dev/role": "queen"}}});
    allowed(&boss.ask("PATCH", &format!("{pods}/app"), Some(&patch)));

    // Without the chart's part of that role nobody but a cluster's administrator could.
    let bare = cluster().namespace("bare");
    let role = administrator(&bare, "leasehold-aggregate-to-admin");
    let boss = Account::new(&bare, "boss");
    bare.bind(&role, "boss");
    let bindings = bindings.replace(&shop.name, &bare.name);
    wait_until("the role admin", Duration::from_secs(30), || boss.ask("GET", &bindings, None).status == 200);
    for (role, verb) in [(ROLE, "campaign"), ("leasehold-member", "join"), ("leasehold-role-label", "label")] {
        let answer = bind(&boss, role);
        assert_eq!(answer.status, 403, "{}", answer.text());
        let missing = answer.text();
        assert!(missing.contains("not currently held") && missing.contains(verb), "{missing}");
    }
}
