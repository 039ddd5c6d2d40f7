//! Why the address of the API server may not answer, with the remedy.
//!
//! Two faults are common, and both look like a server that is down. The address of the service
//! `kubernetes` leads to the server only by kube-proxy. And where kube-proxy once ran in IPVS mode, the
//! device `kube-ipvs0` may still hold that address, so that requests never leave the host.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};

use crate::interface::reader::{Netlink, ReadError};

/// `RT_TABLE_LOCAL` of linux/rtnetlink.h: the addresses of this host.
const LOCAL_TABLE: u8 = 255;

/// Where to look when the server at `host` does not answer.
pub(super) async fn hint(host: &str, is_service: bool) -> String {
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let swallowing = match address.filter(|address| !address.is_loopback()) {
        Some(address) => swallowing_device(address).await.ok().flatten(),
        None => None,
    };
    match (address, swallowing) {
        (Some(address), Some(device)) if device == "kube-ipvs0" => format!(
            "The address {address} is local to this host by the route `local {address} dev {device}`, so \
             requests do not leave it unless kube-proxy runs in IPVS mode. If it does not, remove what \
             is left of it: ip route delete table local local {address} dev {device}, and ip link \
             delete {device}"
        ),
        (Some(address), Some(device)) if is_service => format!(
            "The address {address} is local to this host by the route `local {address} dev {device}`, so \
             requests do not leave it. Remove it: ip route delete table local local {address} dev \
             {device}"
        ),
        _ if is_service => format!(
            "{host} is the address of the service kubernetes, which leads to the API server only if \
             kube-proxy works on this host: look at its log. Or name a server with --kube-api-url, such \
             as https://192.0.2.10:6443"
        ),
        _ => "Check --kube-api-url or the kubeconfig file, and the way to the server".to_owned(),
    }
}

/// The device that holds this address, if this host does.
async fn swallowing_device(address: IpAddr) -> Result<Option<String>, ReadError> {
    let netlink = Netlink::open()?;
    let mut question = RouteMessage::default();
    question.header.address_family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let mut answers = netlink.handle().route().get(question).execute();
    let mut device = None;
    while let Some(message) = answers.try_next().await.map_err(ReadError::Kernel)? {
        device = device.or_else(|| local_device(&message, address));
    }
    drop(answers);
    let Some(index) = device else { return Ok(None) };
    let links = netlink.links().await?;
    Ok(links.into_iter().find(|link| link.index == index).map(|link| link.name))
}

fn local_device(message: &RouteMessage, address: IpAddr) -> Option<u32> {
    let wanted = match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    };
    let is_local = message.header.table == LOCAL_TABLE && message.header.kind == RouteType::Local;
    let has =
        |attribute: &RouteAttribute| *attribute == RouteAttribute::Destination(wanted.clone());
    let device = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    };
    let attributes = &message.attributes;
    (is_local && attributes.iter().any(has)).then(|| attributes.iter().find_map(device)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_service_that_does_not_answer_is_kube_proxys() {
        let text = hint("192.0.2.77", true).await;
        assert!(text.contains("kube-proxy") && text.contains("--kube-api-url"), "{text}");
        let text = hint("api.example.com", false).await;
        assert!(text.contains("kubeconfig") && !text.contains("kube-proxy"), "{text}");
    }
}
