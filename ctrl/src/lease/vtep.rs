//! What a lease of the type `vxlan` says about its owner's device: `BackendData` for the one of IPv4,
//! `BackendV6Data` for the one of IPv6.

use serde_json::{Value, json};

use crate::kernel::MacAddress;

/// The data of a device, with flannel's keys in flannel's order.
#[must_use]
pub fn data(vni: u32, mac: MacAddress) -> Value {
    json!({"VNI": vni, "VtepMAC": mac.to_string()})
}

/// The MAC address in such data. Another `VNI` than ours is no mistake, as with flannel: older leases
/// have none.
///
/// # Errors
/// It is missing, not written as a MAC address, or no device can have it. The text says which.
pub fn mac(data: Option<&Value>) -> Result<MacAddress, String> {
    let text = data
        .and_then(Value::as_object)
        .and_then(|object| object.iter().find(|(key, _)| key.eq_ignore_ascii_case("VtepMAC")))
        .and_then(|(_, value)| value.as_str())
        .ok_or("it has none")?;
    let mac: MacAddress = text.parse().map_err(|_| format!("{text:?} is not written as one"))?;
    if mac.is_unicast() { Ok(mac) } else { Err(format!("{mac} is not that of one device")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_flannels_byte_for_byte() {
        let written = data(1, "22:2b:3a:1d:8d:3c".parse().unwrap()).to_string();
        assert_eq!(written, r#"{"VNI":1,"VtepMAC":"22:2b:3a:1d:8d:3c"}"#);
    }

    #[test]
    fn only_what_a_device_can_have_is_believed() {
        let read = |text: &str| mac(Some(&serde_json::from_str(text).unwrap()));
        let good = Ok("c6:d2:32:6f:8f:44".parse().unwrap());
        assert_eq!(read(r#"{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}"#), good);
        assert_eq!(read(r#"{"vtepmac":"C6:D2:32:6F:8F:44"}"#), good);
        for (text, reason) in [
            ("null", "none"),
            ("7", "none"),
            ("{}", "none"),
            (r#"{"VtepMAC":null}"#, "none"),
            (r#"{"VtepMAC":["c6:d2:32:6f:8f:44"]}"#, "none"),
            (r#"{"VtepMAC":""}"#, "not written"),
            (r#"{"VtepMAC":"c6:d2:32:6f:8f"}"#, "not written"),
            (r#"{"VtepMAC":"c6:d2:32:6f:8f:44:00:00"}"#, "not written"),
            (r#"{"VtepMAC":"+6:d2:32:6f:8f:44"}"#, "not written"),
            (r#"{"VtepMAC":"00:00:00:00:00:00"}"#, "one device"),
            (r#"{"VtepMAC":"ff:ff:ff:ff:ff:ff"}"#, "one device"),
            (r#"{"VtepMAC":"01:00:5e:00:00:01"}"#, "one device"),
        ] {
            assert!(read(text).unwrap_err().contains(reason), "{text}");
        }
        assert!(mac(None).unwrap_err().contains("none"));
    }
}
