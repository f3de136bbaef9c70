//! The name of a member's Lease, made as API servers make theirs.

use ring::digest::{SHA256, digest};

/// What follows the name: a hyphen and 128 bits in base32.
const HASH: usize = 27;
/// A label has it as its value as well.
pub const LONGEST_GROUP: usize = 63;

/// The Lease of `host` in a group: `GROUP-HASH`. The same host has the same one ever after.
pub fn lease_name(group: &str, host: &str) -> String {
    named(group, host, group)
}

/// Lower-case base32 of the first 16 bytes of the SHA-256 of both texts, each behind its length in two bytes.
fn named(prefix: &str, host: &str, component: &str) -> String {
    let mut bytes = Vec::new();
    for text in [host, component] {
        // Both are names of 253 characters at most.
        bytes.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend(text.as_bytes());
    }
    let mut name = String::with_capacity(prefix.len() + HASH);
    name.push_str(prefix);
    name.push('-');
    base32(&digest(&SHA256, &bytes).as_ref()[..16], &mut name);
    name
}

fn base32(bytes: &[u8], text: &mut String) {
    let (mut bits, mut count) = (0_u32, 0);
    let mut push = |five: u32| text.push(char::from(b"abcdefghijklmnopqrstuvwxyz234567"[five as usize & 31]));
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            push(bits >> count);
        }
    }
    if count > 0 {
        push(bits << (5 - count));
    }
}

/// The Lease in which a kube-apiserver on this host says that it lives.
#[doc(hidden)]
pub fn api_server_lease(host: &str) -> String {
    named("apiserver", host, "kube-apiserver")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32_is_that_of_rfc_4648_without_padding() {
        for (bytes, text) in [("", ""), ("f", "my"), ("fo", "mzxq"), ("foo", "mzxw6"), ("foobar", "mzxw6ytboi")] {
            let mut made = String::new();
            base32(bytes.as_bytes(), &mut made);
            assert_eq!(made, text);
        }
    }

    #[test]
    fn a_name_is_its_hosts_and_its_groups_alone() {
        let name = lease_name("web", "web-0");
        assert_eq!(name.len(), "web".len() + HASH);
        assert!(crate::names::dns_subdomain(&name).is_ok());
        assert_ne!(name, lease_name("web", "web-1"));
        assert_ne!(name[4..], lease_name("api", "web-0")[4..]);
        // Where one text ends and the other begins is part of it.
        assert_ne!(lease_name("b", "xb")[2..], lease_name("bb", "x")[3..]);
    }
}
