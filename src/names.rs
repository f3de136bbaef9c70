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

/// What a label may have as its value.
pub fn label_value(value: &str) -> Result<(), String> {
    if value.len() > 63 {
        return Err(format!("it has {} characters, and 63 fit: a label has it as its value", value.len()));
    }
    name_of_key(value)
}

/// The key of an annotation: a name, and before it perhaps a domain.
pub fn annotation_key(key: &str) -> Result<(), String> {
    let (domain, name) = key.rsplit_once('/').map_or((None, key), |(domain, name)| (Some(domain), name));
    if let Some(domain) = domain {
        dns_subdomain(domain)?;
    }
    if name.len() > 63 {
        return Err("its name must have 1 to 63 characters".into());
    }
    name_of_key(name)
}

fn name_of_key(name: &str) -> Result<(), String> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if inner && edge(name.chars().next()) && edge(name.chars().last()) {
        Ok(())
    } else {
        Err("letters, digits, and '-', '_' and '.' between them".into())
    }
}
