//! Names as Kubernetes accepts them.

/// RFC 1123, as Kubernetes checks the names of Leases and pods. The fault is what it must be.
pub fn dns_subdomain(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > 253 {
        return Err("it must have 1 to 253 characters".into());
    }
    name.split('.').try_for_each(dns_part)
}

/// RFC 1123 again: a namespace.
pub fn dns_label(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > 63 {
        return Err("it must have 1 to 63 characters".into());
    }
    dns_part(name)
}

fn dns_part(part: &str) -> Result<(), String> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inner = part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if inner && edge(part.chars().next()) && edge(part.chars().last()) {
        Ok(())
    } else {
        Err("lower-case letters, digits and '-' between them, in parts joined by '.'".into())
    }
}
