//! Where a request comes from.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::config::Network;

/// The client's address: the peer, or, where the peer is a proxy that is trusted, the last address of
/// `X-Forwarded-For` that is not. Further addresses to the left are what the client says of itself.
pub fn client_address(peer: IpAddr, forwarded_for: Option<&str>, trusted: &[Network]) -> IpAddr {
    let trusts = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer;
    for text in forwarded_for.unwrap_or_default().rsplit(',') {
        if !trusts(client) {
            break;
        }
        let Some(address) = parse(text.trim()) else { break };
        client = address;
    }
    client.to_canonical()
}

fn parse(text: &str) -> Option<IpAddr> {
    let bracketed = || text.strip_prefix('[')?.split(']').next()?.parse().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(with_port).or_else(bracketed)
}

/// What one client can choose its address from: an IPv4 address, or 64 bits of IPv6.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// `scheme://host[:port]` by which the client reached this server, from its Host header if that is one, else from the
/// address it connected to. The scheme's own port is left out.
pub fn host_url(secure: bool, host: Option<&str>, local: SocketAddr) -> String {
    let (scheme, port) = if secure { ("https", ":443") } else { ("http", ":80") };
    let is_host = |host: &&str| {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:[]%".contains(&b))
    };
    let local = local.to_string();
    let host = host.filter(is_host).unwrap_or(&local);
    format!("{scheme}://{}", host.strip_suffix(port).unwrap_or(host))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|text| Network::parse(text).unwrap());
        for (peer, header, client) in [
            ("1.1.1.1", Some("2.2.2.2"), "1.1.1.1"),
            ("10.0.0.1", None, "10.0.0.1"),
            ("10.0.0.1", Some("2.2.2.2"), "2.2.2.2"),
            ("10.0.0.1", Some("6.6.6.6, 2.2.2.2"), "2.2.2.2"),
            ("10.0.0.1", Some("2.2.2.2, 10.0.0.2"), "2.2.2.2"),
            ("10.0.0.1", Some("2.2.2.2,, 10.0.0.2"), "10.0.0.2"),
            ("10.0.0.1", Some("unknown"), "10.0.0.1"),
            ("10.0.0.1", Some("10.0.0.9"), "10.0.0.9"),
            ("fd00::1", Some("2.2.2.2:81"), "2.2.2.2"),
            ("fd00::1", Some("[2001:db8::1]:81"), "2001:db8::1"),
            ("fd00::1", Some("[2001:db8::1]"), "2001:db8::1"),
            ("::ffff:1.1.1.1", None, "1.1.1.1"),
        ] {
            let found = client_address(peer.parse().unwrap(), header, &trusted);
            assert_eq!(found, client.parse::<IpAddr>().unwrap(), "{peer} {header:?}");
        }
    }

    #[test]
    fn neighbours_in_ipv6_are_one() {
        let network = |text: &str| network_of(text.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("::ffff:1.2.3.4"), "1.2.3.4");
        assert_eq!(network("1.2.3.4"), "1.2.3.4");
    }

    /// Swift's `test_storage_url_default` and `test_storage_url_based_on_host`.
    #[test]
    fn urls_name_the_host() {
        let local = "127.0.0.1:1234".parse().unwrap();
        for (secure, host, url) in [
            (false, None, "http://127.0.0.1:1234"),
            (false, Some("somehost:5678"), "http://somehost:5678"),
            (false, Some("somehost:80"), "http://somehost"),
            (true, Some("somehost:80"), "https://somehost:80"),
            (true, Some("[::1]:443"), "https://[::1]"),
            (true, Some("a/b"), "https://127.0.0.1:1234"),
            (false, Some("a\r\nX: y"), "http://127.0.0.1:1234"),
            (false, Some(""), "http://127.0.0.1:1234"),
        ] {
            assert_eq!(host_url(secure, host, local), url);
        }
    }

    proptest! {
        #[test]
        fn any_header_is_bearable(header in "\\PC{0,60}|([0-9a-f.:,\\[\\] ]){0,40}") {
            let trusted = [Network::parse("0.0.0.0/0").unwrap()];
            client_address(Ipv6Addr::LOCALHOST.into(), Some(&header), &trusted);
            client_address([10, 0, 0, 1].into(), Some(&header), &trusted);
            host_url(false, Some(&header), ([127, 0, 0, 1], 1).into());
        }
    }
}
