use super::*;

/// As `nft --stateless list` prints the table; the tests with the real program compare with it, too.
const LISTED: &str = include_str!("flannel-ipv4.nft");

fn overlay() -> Overlay {
    let (network, subnet) = ("10.244.0.0/16", "10.244.1.0/24");
    let (network, subnet) = (network.parse().unwrap(), subnet.parse().unwrap());
    Overlay { network, subnet, fixed_source: false }
}

fn wanted(places: &[Place]) -> Vec<(Place, Option<Vec<String>>)> {
    let wanted = |place| (place, places.contains(&place).then(|| rules(place, &overlay(), true)));
    Place::ALL.into_iter().map(wanted).collect()
}

#[test]
fn a_listing_is_compared_with_what_is_wanted() {
    let there = TableText::parse(LISTED);
    assert!(!differs(Some(&there), &wanted(&Place::ALL)));
    assert!(differs(Some(&there), &wanted(&[Place::Masquerade])), "one chain too much");
    assert!(differs(None, &wanted(&Place::ALL)));
    assert!(!differs(None, &wanted(&[])));
    for (from, to) in [
        (" accept\n\t}", " accept\n\t\tip saddr 192.0.2.1 drop\n\t}"),
        ("\t\tmeta mark 0x00004000 return\n", ""),
        (
            "saddr != 10.244.0.0/16 ip daddr 10.244.1.0/24",
            "saddr != 10.244.1.0/24 ip daddr 10.244.0.0/16",
        ),
        ("hook forward", "hook input"),
        ("chain forward", "chain backward"),
    ] {
        let text = LISTED.replace(from, to);
        assert_ne!(text, LISTED, "{from}");
        assert!(differs(Some(&TableText::parse(&text)), &wanted(&Place::ALL)), "{to}");
    }
}

#[test]
fn chains_are_filled_in_place() {
    let there = TableText::parse(LISTED);
    assert_eq!(
        script(Family::V4, Some(&there), &wanted(&[Place::Forward])),
        "add table ip flannel-ipv4 { comment \"rules for flannel-ipv4\"; }\n\
         flush chain ip flannel-ipv4 postrtg\n\
         delete chain ip flannel-ipv4 postrtg\n\
         add chain ip flannel-ipv4 forward { type filter hook forward priority filter; policy \
         accept; comment \"forwarding for the flannel network\"; }\n\
         flush chain ip flannel-ipv4 forward\n\
         add rule ip flannel-ipv4 forward ip saddr 10.244.0.0/16 accept\n\
         add rule ip flannel-ipv4 forward ip daddr 10.244.0.0/16 accept\n"
    );
}

#[test]
fn chains_that_drop_are_found() {
    let chain = |family: &str, table: &str, name: &str, more: &str| {
        format!(
            r#"{{"chain": {{"family": "{family}", "table": "{table}", "name": "{name}"{more}}}}}"#
        )
    };
    let drop = r#", "hook": "forward", "prio": 0, "policy": "drop""#;
    let parse = |chains: &[String]| {
        Chains::parse(&format!(r#"{{"nftables": [{{"metainfo": {{}}}}, {}]}}"#, chains.join(",")))
    };
    let all = [
        chain("inet", "firewall", "f", drop),
        chain("ip", "filter", "FORWARD", drop),
        chain("ip6", "filter", "FORWARD", drop),
        chain("ip", "mangle", "FORWARD", &drop.replace("drop", "accept")),
        chain("ip", "filter", "INPUT", &drop.replace("forward", "input")),
        chain("ip", "filter", "USER", ""),
    ];
    let names = |chains: &Chains, family| -> Vec<String> {
        let dropping = chains.dropping(family, "forward", "FLANNEL-FWD");
        dropping.iter().map(|chain| format!("{} {}", chain.family, chain.table)).collect()
    };
    assert_eq!(names(&parse(&all), Family::V4), ["inet firewall", "ip filter"]);
    assert_eq!(names(&parse(&all), Family::V6), ["inet firewall", "ip6 filter"]);
    let helped = [&all[..], &[chain("ip", "filter", "FLANNEL-FWD", "")]].concat();
    assert_eq!(names(&parse(&helped), Family::V4), ["inet firewall"]);
    assert_eq!(names(&parse(&helped), Family::V6), ["inet firewall", "ip6 filter"]);
    assert!(names(&Chains::parse("no JSON"), Family::V4).is_empty());
}

#[test]
fn drops_of_a_chain_are_added_up() {
    let text = "table inet weft {
	chain wall {
		type filter hook prerouting priority raw; policy accept;
		iifname \"flannel0\" accept
		ip saddr 10.5.1.0/24 fib saddr . iif oif != 0 counter packets 9 bytes 9 accept
		ip saddr 10.5.0.0/16 counter packets 12 bytes 1008 drop
		ip daddr 10.5.0.0/16 counter packets 3 bytes 252 drop
	}
}
";
    assert_eq!(listing::dropped(text), 15);
    assert_eq!(listing::dropped(""), 0);
}
