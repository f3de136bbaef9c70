//! The rules for names, label keys and label values, with the real server's sentences
//! (k8s.io/apimachinery `pkg/api/validate/content`). Each gives the rules that are broken.

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

const LABEL_BYTES: usize = 63;
const SUBDOMAIN_BYTES: usize = 253;

/// A Lease's name.
pub fn subdomain(value: &str) -> Vec<String> {
    subdomain_counted_in(value, "characters")
}

/// The real server counts bytes in both cases, and says so in one.
fn subdomain_counted_in(value: &str, unit: &str) -> Vec<String> {
    let mut broken = too_long(value, SUBDOMAIN_BYTES, unit);
    if !value.split('.').all(is_dns_label) {
        broken.push(format!(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
             and must start and end with an alphanumeric character \
             (e.g. 'example.com', regex used for validation is '{SUBDOMAIN}')"
        ));
    }
    broken
}

/// A namespace's name.
pub fn dns_label(value: &str) -> Vec<String> {
    let mut broken = too_long(value, LABEL_BYTES, "characters");
    if is_dns_label(value) {
        return broken;
    }
    broken.push(if value.split('.').all(is_dns_label) {
        "must not contain dots".to_owned()
    } else {
        format!(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
             and must start and end with an alphanumeric character \
             (e.g. 'my-name',  or '123-abc', regex used for validation is '{LABEL}')"
        )
    });
    broken
}

/// The key of a label or an annotation, and a finalizer's name: `[prefix/]name`.
pub fn label_key(value: &str) -> Vec<String> {
    let shape = format!(
        "must consist of alphanumeric characters, '-', '_' or '.', \
         and must start and end with an alphanumeric character \
         (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{KEY}')"
    );
    let mut broken = Vec::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                broken.push("prefix part must be non-empty".to_owned());
            } else {
                broken.extend(subdomain(prefix).iter().map(|why| format!("prefix part {why}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {shape} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        broken.push("name part must be non-empty".to_owned());
    } else {
        broken.extend(too_long(name, LABEL_BYTES, "bytes").iter().map(|why| format!("name part {why}")));
    }
    if !is_key(name) {
        broken.push(format!("name part {shape}"));
    }
    broken
}

pub fn label_value(value: &str) -> Vec<String> {
    let mut broken = too_long(value, LABEL_BYTES, "bytes");
    if !value.is_empty() && !is_key(value) {
        broken.push(format!(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
             and must start and end with an alphanumeric character \
             (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '({KEY})?')"
        ));
    }
    broken
}

fn too_long(value: &str, limit_bytes: usize, unit: &str) -> Vec<String> {
    match value.len() > limit_bytes {
        true => vec![format!("must be no more than {limit_bytes} {unit}")],
        false => Vec::new(),
    }
}

fn is_dns_label(label: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    begins_and_ends(label, inside) && label.bytes().all(|byte| inside(byte) || byte == b'-')
}

fn is_key(name: &str) -> bool {
    begins_and_ends(name, |byte| byte.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn begins_and_ends(text: &str, with: impl Fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [] => false,
        [only] => with(*only),
        [first, .., last] => with(*first) && with(*last),
    }
}
