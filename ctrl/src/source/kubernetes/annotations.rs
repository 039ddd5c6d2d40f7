//! What a node says about itself, as flanneld writes it: annotations of its Node object.
//!
//! ```text
//! flannel.alpha.coreos.com/kube-subnet-manager   true
//! flannel.alpha.coreos.com/backend-type          vxlan, or nothing for udp
//! flannel.alpha.coreos.com/backend-data          {"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}, or null
//! flannel.alpha.coreos.com/public-ip             192.0.2.5
//! ```
//!
//! The same with `-v6-` and `ipv6` for IPv6, and one of our own, `weft`, with the `Weft` key of a
//! lease. Here they become the JSON value of a lease and the other way round.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use crate::identity::Identity;
use crate::lease::{Attributes, ValueError, WEFT_VERSION, shortened};

/// Annotations of an object.
pub(super) type Annotations = BTreeMap<String, String>;

/// What becomes of some annotations; `None` removes one.
pub(super) type Wanted = BTreeMap<String, Option<String>>;

/// flanneld's rule: a domain of two labels at least, a slash, and perhaps the beginning of a name.
static PREFIX: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(?:[a-z0-9_-]+\.)+[a-z0-9_-]+/(?:[a-z0-9_.-]+-)?$")
        .expect("the pattern is a constant")
});

/// Suffixes of what an operator wants to be said instead of the node's own addresses.
const V4_OVERWRITE: &str = "public-ip-overwrite";
const V6_OVERWRITE: &str = "public-ipv6-overwrite";

/// Letters of a wish that is no address that are told. The longest address has 45.
const WISH_LENGTH_MAX: usize = 60;

/// What all names of annotations begin with, up to the suffix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnotationPrefix(String);

/// The text cannot begin the name of an annotation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot begin the names of annotations. It is a domain in lower case with a dot, and \
     after a slash perhaps a word: flannel.alpha.coreos.com, or example.com/flannel"
)]
pub struct PrefixError(String);

impl FromStr for AnnotationPrefix {
    type Err = PrefixError;

    /// Completes it as flanneld does: `example.com` to `example.com/`, `example.com/9` to
    /// `example.com/9-`.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let mut prefix = text.to_owned();
        if !prefix.contains('/') {
            prefix.push('/');
        }
        if !prefix.ends_with(['/', '-']) {
            prefix.push('-');
        }
        let is_good = PREFIX.is_match(&prefix);
        if is_good { Ok(Self(prefix)) } else { Err(PrefixError(text.to_owned())) }
    }
}

/// The addresses that a node is to announce, whatever its daemon was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeAddresses {
    pub(super) v4: Option<Ipv4Addr>,
    pub(super) v6: Option<Ipv6Addr>,
}

/// Names of the annotations.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub(super) fn new(prefix: &AnnotationPrefix) -> Self {
        Self { prefix: prefix.0.clone() }
    }

    fn of(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.prefix)
    }

    fn text<'a>(&self, annotations: &'a Annotations, suffix: &str) -> Option<&'a str> {
        annotations.get(&self.of(suffix)).map(String::as_str)
    }

    /// The node takes part: only then others send to it.
    pub(super) fn is_managed(&self, annotations: &Annotations) -> bool {
        self.text(annotations, "kube-subnet-manager") == Some("true")
    }

    /// `node-public-ip` and its sibling. One that is no address counts as none.
    pub(super) fn node_addresses(&self, annotations: &Annotations) -> NodeAddresses {
        let text = |suffix| self.text(annotations, suffix);
        NodeAddresses {
            v4: text("node-public-ip").and_then(|text| text.parse().ok()),
            v6: text("node-public-ipv6").and_then(|text| text.parse().ok()),
        }
    }

    /// What the node is to say. `now` has what an operator wants to be said instead of its own
    /// addresses.
    pub(super) fn wanted(&self, attributes: &Attributes, now: &Annotations) -> Wanted {
        let is_vxlan = attributes.backend_type == "vxlan";
        let has_v4 = !is_vxlan || attributes.backend_data.is_some();
        let has_v6 = match is_vxlan {
            true => attributes.backend_v6_data.is_some(),
            false => attributes.public_ipv6.is_some(),
        };
        let data = |data: &Option<Value>| data.as_ref().unwrap_or(&Value::Null).to_string();
        let own_v4 = Some(attributes.public_ip.to_string());
        let own_v6 = attributes.public_ipv6.map(|address| address.to_string());
        let v4 = self.overwrite::<Ipv4Addr>(now, V4_OVERWRITE).map(str::to_owned).or(own_v4);
        let v6 = self.overwrite::<Ipv6Addr>(now, V6_OVERWRITE).map(str::to_owned).or(own_v6);
        let weft = attributes.weft.as_ref().map(|weft| {
            serde_json::to_string(weft).expect("texts and numbers can always be written")
        });
        let pairs = [
            ("kube-subnet-manager", Some("true".to_owned())),
            ("backend-type", Some(attributes.backend_type.clone())),
            ("backend-data", has_v4.then(|| data(&attributes.backend_data))),
            ("public-ip", v4.filter(|_| has_v4)),
            ("backend-v6-data", has_v6.then(|| data(&attributes.backend_v6_data))),
            ("public-ipv6", v6.filter(|_| has_v6)),
            ("weft", weft),
        ];
        pairs.into_iter().map(|(suffix, value)| (self.of(suffix), value)).collect()
    }

    /// Whether the node does not say yet what an operator wants to be said.
    pub(super) fn has_unmet_wish(&self, now: &Annotations) -> bool {
        let is_unmet = |wish: Option<&str>, said| wish.is_some() && wish != self.text(now, said);
        is_unmet(self.overwrite::<Ipv4Addr>(now, V4_OVERWRITE), "public-ip")
            || is_unmet(self.overwrite::<Ipv6Addr>(now, V6_OVERWRITE), "public-ipv6")
    }

    /// What an operator wants to be said and no address is: the annotation, and what is in it.
    pub(super) fn mistaken_wish(&self, now: &Annotations) -> Option<(String, String)> {
        let is_good = |suffix| match suffix {
            V4_OVERWRITE => self.overwrite::<Ipv4Addr>(now, suffix).is_some(),
            _ => self.overwrite::<Ipv6Addr>(now, suffix).is_some(),
        };
        let mut wishes = [V4_OVERWRITE, V6_OVERWRITE].into_iter();
        wishes.find_map(|suffix| {
            let text =
                self.text(now, suffix).filter(|text| !text.is_empty() && !is_good(suffix))?;
            Some((self.of(suffix), shortened(text, WISH_LENGTH_MAX)))
        })
    }

    /// What an operator wants to be said instead of the node's own address. What is no address would
    /// cut the node off from all others, so it counts as none.
    fn overwrite<'a, A: FromStr>(&self, now: &'a Annotations, suffix: &str) -> Option<&'a str> {
        self.text(now, suffix).filter(|text| text.parse::<A>().is_ok())
    }

    /// Everything of ours goes.
    pub(super) fn none(&self) -> Wanted {
        let suffixes = [
            "kube-subnet-manager",
            "backend-type",
            "backend-data",
            "public-ip",
            "backend-v6-data",
            "public-ipv6",
            "weft",
        ];
        suffixes.into_iter().map(|suffix| (self.of(suffix), None)).collect()
    }

    /// The annotations as the value of a lease. What cannot be read is handed on as it is, so that
    /// it is refused where all leases are judged.
    pub(super) fn value(&self, annotations: &Annotations) -> Value {
        let text = |suffix| self.text(annotations, suffix);
        let mut value = Map::new();
        value.insert("PublicIP".into(), text("public-ip").unwrap_or("0.0.0.0").into());
        value.insert("PublicIPv6".into(), text("public-ipv6").into());
        if let Some(kind) = text("backend-type").filter(|kind| !kind.is_empty()) {
            value.insert("BackendType".into(), kind.into());
        }
        let parts = [
            ("BackendData", "backend-data"),
            ("BackendV6Data", "backend-v6-data"),
            ("Weft", "weft"),
        ];
        for (key, suffix) in parts {
            let Some(text) = text(suffix) else { continue };
            match serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)) {
                Value::Null => {}
                part => drop(value.insert(key.into(), part)),
            }
        }
        Value::Object(value)
    }
}

/// Says in the value of a lease that its node is the one with this identity: a node is known by its
/// name here, whatever its annotations say.
pub(super) fn set_identity(value: &mut Value, identity: Identity) {
    let weft = &mut value["Weft"];
    if weft["v"].as_u64() != Some(WEFT_VERSION) {
        *weft = serde_json::json!({"v": WEFT_VERSION});
    }
    weft["id"] = identity.to_string().into();
}

/// Why the value of a lease cannot be read, if it cannot.
pub(super) fn damage(value: &Value) -> Option<ValueError> {
    Attributes::parse(value.to_string().as_bytes()).err()
}

/// Takes out of the value of a lease what people may have broken. What the backend says stays: the
/// device's MAC address is in it.
pub(super) fn make_readable(value: &mut Value) {
    value["PublicIP"] = Ipv4Addr::UNSPECIFIED.to_string().into();
    value["PublicIPv6"] = Value::Null;
    value["Weft"] = Value::Null;
}

/// The value of a lease that says nothing, and can be read.
pub(super) fn silent() -> Value {
    serde_json::json!({"PublicIP": Ipv4Addr::UNSPECIFIED.to_string()})
}

/// Whether nothing of it has to be changed.
pub(super) fn has(annotations: &Annotations, wanted: &Wanted) -> bool {
    wanted.iter().all(|(name, value)| annotations.get(name) == value.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Weft;
    use serde_json::json;

    fn names() -> Names {
        Names::new(&"flannel.alpha.coreos.com".parse().unwrap())
    }

    fn applied(wanted: &Wanted) -> Annotations {
        let pairs = wanted.iter();
        pairs.filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect()
    }

    fn attributes(kind: &str) -> Attributes {
        Attributes {
            public_ip: [192, 0, 2, 5].into(),
            public_ipv6: None,
            backend_type: kind.into(),
            backend_data: None,
            backend_v6_data: None,
            weft: None,
        }
    }

    /// `suffix=value` of each annotation, without those that are not written.
    fn shown(wanted: &Wanted) -> Vec<String> {
        let prefix = "flannel.alpha.coreos.com/";
        let pairs = applied(wanted).into_iter();
        pairs.map(|(name, value)| format!("{}={value}", &name[prefix.len()..])).collect()
    }

    #[test]
    fn prefixes_are_completed_or_refused_as_by_flanneld() {
        for (text, prefix) in [
            ("flannel.alpha.coreos.com", "flannel.alpha.coreos.com/"),
            ("flannel.alpha.coreos.com/", "flannel.alpha.coreos.com/"),
            ("org.com/9", "org.com/9-"),
            ("org.com/9-", "org.com/9-"),
            ("org.com/a-b", "org.com/a-b-"),
        ] {
            assert_eq!(text.parse(), Ok(AnnotationPrefix(prefix.into())), "{text}");
        }
        for text in
            ["", "/", "org", "org/", "org/x", "Org.com", "org.com/X", "a.b/c/d", "a.b/ c", ".b"]
        {
            let error = text.parse::<AnnotationPrefix>().unwrap_err();
            assert!(error.to_string().contains("flannel.alpha.coreos.com"), "{text}");
        }
    }

    #[test]
    fn they_are_flannels_byte_for_byte() {
        let nothing = Annotations::new();
        assert_eq!(
            shown(&names().wanted(&attributes(""), &nothing)),
            [
                "backend-data=null",
                "backend-type=",
                "kube-subnet-manager=true",
                "public-ip=192.0.2.5"
            ]
        );
        let vxlan = Attributes {
            backend_data: Some(json!({"VNI": 1, "VtepMAC": "12:c6:65:89:b4:e3"})),
            ..attributes("vxlan")
        };
        assert_eq!(
            shown(&names().wanted(&vxlan, &nothing)),
            [
                r#"backend-data={"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}"#,
                "backend-type=vxlan",
                "kube-subnet-manager=true",
                "public-ip=192.0.2.5",
            ]
        );
        let v6_alone = Attributes {
            public_ipv6: Some("2001:db8::5".parse().unwrap()),
            backend_v6_data: vxlan.backend_data.clone(),
            ..attributes("vxlan")
        };
        assert_eq!(
            shown(&names().wanted(&v6_alone, &nothing)),
            [
                "backend-type=vxlan",
                r#"backend-v6-data={"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}"#,
                "kube-subnet-manager=true",
                "public-ipv6=2001:db8::5",
            ]
        );
        let dual = Attributes {
            public_ipv6: Some("2001:db8::5".parse().unwrap()),
            ..attributes("host-gw")
        };
        assert_eq!(
            shown(&names().wanted(&dual, &nothing)),
            [
                "backend-data=null",
                "backend-type=host-gw",
                "backend-v6-data=null",
                "kube-subnet-manager=true",
                "public-ip=192.0.2.5",
                "public-ipv6=2001:db8::5",
            ]
        );
    }

    #[test]
    fn an_operator_may_say_another_address() {
        let overwrite = |suffix: &str, value: &str| {
            Annotations::from([(format!("flannel.alpha.coreos.com/{suffix}"), value.to_owned())])
        };
        let now = overwrite("public-ip-overwrite", "203.0.113.9");
        let wanted = names().wanted(&attributes("host-gw"), &now);
        assert!(shown(&wanted).contains(&"public-ip=203.0.113.9".to_owned()));
        assert!(names().has_unmet_wish(&now) && !names().has_unmet_wish(&Annotations::new()));
        assert!(!names().has_unmet_wish(&applied(&wanted).into_iter().chain(now).collect()));
        for nonsense in ["203.0.113.", "2001:db8::5", " 203.0.113.9"] {
            let now = overwrite("public-ip-overwrite", nonsense);
            let wanted = names().wanted(&attributes("host-gw"), &now);
            assert!(shown(&wanted).contains(&"public-ip=192.0.2.5".to_owned()), "{nonsense}");
            assert!(!names().has_unmet_wish(&now), "{nonsense}");
            let name = "flannel.alpha.coreos.com/public-ip-overwrite";
            let mistaken = Some((name.to_owned(), nonsense.to_owned()));
            assert_eq!(names().mistaken_wish(&now), mistaken);
        }
        for none in ["", "203.0.113.9"] {
            assert_eq!(names().mistaken_wish(&overwrite("public-ip-overwrite", none)), None);
        }
        let now = overwrite("node-public-ip", "203.0.113.9");
        let expected = NodeAddresses { v4: Some([203, 0, 113, 9].into()), v6: None };
        assert_eq!(names().node_addresses(&now), expected);
        let now = overwrite("node-public-ip", "nonsense");
        assert_eq!(names().node_addresses(&now), NodeAddresses::default());
    }

    #[test]
    fn a_value_comes_back_byte_for_byte() {
        let id = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let weft = Weft {
            id: Some(id),
            paths: vec!["udp".into()],
            port: Some(8285),
            mtu: Some(1472),
            ..Weft::default()
        };
        for attributes in [
            attributes(""),
            Attributes { weft: Some(weft.clone()), ..attributes("") },
            Attributes {
                backend_data: Some(json!({"VNI": 1, "VtepMAC": "12:c6:65:89:b4:e3"})),
                weft: Some(weft),
                ..attributes("vxlan")
            },
        ] {
            let annotations = applied(&names().wanted(&attributes, &Annotations::new()));
            let value = names().value(&annotations).to_string();
            assert_eq!(value.as_bytes(), attributes.to_json());
        }
    }

    #[test]
    fn leftovers_of_another_type_are_removed() {
        let both = Attributes {
            public_ipv6: Some("2001:db8::5".parse().unwrap()),
            ..attributes("host-gw")
        };
        let before = applied(&names().wanted(&both, &Annotations::new()));
        let wanted = names().wanted(&attributes("host-gw"), &before);
        assert!(!has(&before, &wanted));
        assert_eq!(wanted["flannel.alpha.coreos.com/public-ipv6"], None);
        assert!(has(&applied(&wanted), &wanted));
        let gone = names().none();
        assert!(wanted.keys().eq(gone.keys()) && gone.values().all(Option::is_none));
    }

    #[test]
    fn what_cannot_be_read_is_handed_on() {
        let annotations = Annotations::from([
            ("flannel.alpha.coreos.com/backend-type".to_owned(), "vxlan".to_owned()),
            ("flannel.alpha.coreos.com/backend-data".to_owned(), "{".to_owned()),
            ("flannel.alpha.coreos.com/public-ip".to_owned(), "x".to_owned()),
            ("flannel.alpha.coreos.com/weft".to_owned(), "7".to_owned()),
        ]);
        let mut value = names().value(&annotations);
        assert_eq!(
            value.to_string(),
            r#"{"PublicIP":"x","PublicIPv6":null,"BackendType":"vxlan","BackendData":"{","Weft":7}"#
        );
        let id: Identity = "0123456789abcdef0123456789abcdef".parse().unwrap();
        set_identity(&mut value, id);
        assert_eq!(value["Weft"], json!({"v": 1, "id": id.to_string()}));
        let mut other = json!({"Weft": {"v": 1, "id": "x", "port": 8285}});
        set_identity(&mut other, id);
        assert_eq!(other["Weft"], json!({"v": 1, "id": id.to_string(), "port": 8285}));
    }
}
