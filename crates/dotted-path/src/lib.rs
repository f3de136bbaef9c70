//! Keys joined by dots, in the place of a whole JSONPath.
//!
//! kube reads one thing by a path: where the output of an `auth-provider` command of a kubeconfig has its token and
//! the token's expiry, `{.credential.access_token}`. kubectl itself has dropped those commands (1.26; `exec` plugins
//! took their place, and need no path). The full language brings two parsers and regular expressions, half a megabyte
//! that each pod's image would carry. Anything but keys joined by dots is refused, with a sentence.

use serde_json::Value;

#[derive(Debug)]
pub struct NotDotted(String);

impl std::fmt::Display for NotDotted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} is not keys joined by dots, such as $.credential.access_token", self.0)
    }
}

impl std::error::Error for NotDotted {}

pub trait JsonPath {
    /// The value at `path`, or none.
    fn query(&self, path: &str) -> Result<Vec<&Value>, NotDotted>;
}

impl JsonPath for Value {
    fn query(&self, path: &str) -> Result<Vec<&Value>, NotDotted> {
        let refused = || NotDotted(path.to_owned());
        let keys = path.strip_prefix("$.").ok_or_else(refused)?;
        let plain = |key: &str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        if !keys.split('.').all(plain) {
            return Err(refused());
        }
        Ok(keys.split('.').try_fold(self, |value, key| value.get(key)).into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lead_to_the_value_and_anything_else_is_refused() {
        let json: Value = serde_json::from_str(r#"{"credential": {"access_token": "t"}}"#).unwrap();
        assert_eq!(json.query("$.credential.access_token").unwrap(), [&Value::from("t")]);
        assert!(json.query("$.credential.other").unwrap().is_empty());
        for path in ["", "$", "credential", "$..access_token", "$.credential[0]", "$.a[?(@.b == 1)]", "$.*"] {
            assert!(json.query(path).is_err(), "{path}");
        }
    }
}
