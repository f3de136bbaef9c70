//! Which names a request may call us by.
//!
//! A page in a browser on the node could have its own name resolved to 127.0.0.1 and then ask us (DNS rebinding). Its
//! requests carry that name, so only loopback names and those on a list are answered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hyper::header::HOST;
use hyper::{Request, StatusCode, Version};

use super::reply::{self, Reply};

/// The refusal, if there is one. 403 and not 421: that one invites a client to try again on another connection, and
/// it has another meaning here (`?pod=`).
pub(super) fn check<B>(request: &Request<B>, allowed: &[String]) -> Result<(), Box<Reply>> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err(refused(StatusCode::BAD_REQUEST, "host_ambiguous", "a request has one Host".into()));
    }
    // RFC 9112, section 3.2.2: a whole URL in the request line goes before the header.
    let host = match (request.uri().authority(), header) {
        (Some(authority), _) => authority.as_str().to_owned(),
        (None, Some(header)) => String::from_utf8_lossy(header.as_bytes()).into_owned(),
        (None, None) if request.version() < Version::HTTP_11 => return Ok(()),
        (None, None) => return Err(refused(StatusCode::BAD_REQUEST, "host_missing", "HTTP/1.1 needs a Host".into())),
    };
    let name = without_port(&host);
    if is_loopback(name) || allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    let message = format!("this sidecar does not answer to the Host {host:?}; --allowed-host adds a name");
    Err(refused(StatusCode::FORBIDDEN, "host_not_allowed", message))
}

fn refused(status: StatusCode, code: &str, message: String) -> Box<Reply> {
    Box::new(reply::error(status, code, message))
}

fn without_port(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    // Nothing may stand between the bracket and the port.
    name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name)
}

fn is_loopback(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || name.parse::<Ipv6Addr>().is_ok_and(|address| IpAddr::V6(address).to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(host: &str) -> Option<u16> {
        let request = Request::builder().uri("/leader").header(HOST, host).body(()).unwrap();
        check(&request, &["My-Name".into()]).err().map(|reply| reply.status().as_u16())
    }

    #[test]
    fn only_loopback_and_listed_names_are_answered() {
        for good in ["localhost", "LOCALHOST:4040", "127.0.0.1", "127.8.9.1:80", "[::1]", "[::1]:4040", "my-name:1"] {
            assert_eq!(status(good), None, "{good}");
        }
        let bad = [
            "",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "10.0.0.1",
            "[::2]",
            "[::1",
            "[::1].example.com",
            "[::1]x:80",
            "[localhost",
            "::1",
            "0.0.0.0",
            "my-name.example.com",
            "localhost:80:80",
            ":80",
            "127.1",
            "\u{fc}",
        ];
        for bad in bad {
            assert_eq!(status(bad), Some(403), "{bad}");
        }
    }

    #[test]
    fn a_whole_url_goes_before_the_header_and_http_1_0_may_have_neither() {
        let foreign = Request::builder().uri("http://example.com/leader").header(HOST, "localhost").body(()).unwrap();
        assert!(check(&foreign, &[]).is_err());
        let old = Request::builder().uri("/leader").version(Version::HTTP_10).body(()).unwrap();
        assert!(check(&old, &[]).is_ok());
        let hostless = Request::builder().uri("/leader").body(()).unwrap();
        assert_eq!(check(&hostless, &[]).err().map(|reply| reply.status().as_u16()), Some(400));
        let two = Request::builder().uri("/").header(HOST, "localhost").header(HOST, "localhost").body(()).unwrap();
        assert_eq!(check(&two, &[]).err().map(|reply| reply.status().as_u16()), Some(400));
    }
}
