//! Rows of Services, endpoints and Ingresses.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{NONE, age, count, first_three, items, joined, label_pairs, name, text};

pub(super) fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &object["spec"];
    vec![
        name(object),
        spec["type"].clone(),
        text(if spec["clusterIPs"][0].is_string() {
            &spec["clusterIPs"][0]
        } else {
            &spec["clusterIP"]
        }),
        json!(external(object)),
        json!(service_ports(spec)),
        age(object, now),
        json!(label_pairs(&spec["selector"])),
    ]
}

fn external(service: &Value) -> String {
    let spec = &service["spec"];
    let addresses = || items(&spec["externalIPs"]).iter().filter_map(Value::as_str);
    match spec["type"].as_str() {
        Some("ExternalName") => spec["externalName"].as_str().unwrap_or_default().to_owned(),
        Some("LoadBalancer") => {
            let all = joined(balancer(&service["status"]).chain(addresses()));
            if all == NONE {
                "<pending>".to_owned()
            } else {
                all
            }
        }
        _ => joined(addresses()),
    }
}

/// Addresses and host names of a load balancer's status.
fn balancer(status: &Value) -> impl Iterator<Item = &str> {
    let points = items(&status["loadBalancer"]["ingress"]).iter();
    points.filter_map(|p| {
        p["ip"]
            .as_str()
            .filter(|ip| !ip.is_empty())
            .or_else(|| p["hostname"].as_str())
    })
}

fn service_ports(spec: &Value) -> String {
    let ports = items(&spec["ports"]).iter().map(|port| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        match (count(&port["port"]), count(&port["nodePort"])) {
            (number, 0) => format!("{number}/{protocol}"),
            (number, node_port) => format!("{number}:{node_port}/{protocol}"),
        }
    });
    let ports: Vec<String> = ports.collect();
    joined(ports.iter().map(String::as_str))
}

pub(super) fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in items(&object["subsets"]) {
        let addresses = items(&subset["addresses"])
            .iter()
            .filter_map(|a| a["ip"].as_str());
        let ports = items(&subset["ports"]);
        for ip in addresses {
            all.extend(ports.iter().map(|port| host_port(ip, count(&port["port"]))));
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
        }
    }
    let listed = if all.is_empty() {
        NONE.to_owned()
    } else {
        first_three(&all)
    };
    vec![name(object), json!(listed), age(object, now)]
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

pub(super) fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports = items(&object["ports"]).iter().map(|port| {
        match (port["port"].as_i64(), port["name"].as_str()) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => "*".to_owned(),
        }
    });
    let addresses = items(&object["endpoints"])
        .iter()
        .flat_map(|e| items(&e["addresses"]));
    let addresses = addresses.filter_map(Value::as_str).map(str::to_owned);
    vec![
        name(object),
        object["addressType"].clone(),
        json!(or_unset(&ports.collect::<Vec<_>>())),
        json!(or_unset(&addresses.collect::<Vec<_>>())),
        age(object, now),
    ]
}

fn or_unset(texts: &[String]) -> String {
    if texts.is_empty() {
        "<unset>".to_owned()
    } else {
        first_three(texts)
    }
}

pub(super) fn ingress(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &object["spec"];
    let hosts = items(&spec["rules"])
        .iter()
        .filter_map(|r| r["host"].as_str())
        .filter(|h| !h.is_empty());
    let hosts: Vec<String> = hosts.map(str::to_owned).collect();
    let addresses: Vec<&str> = balancer(&object["status"]).collect();
    vec![
        name(object),
        text(&spec["ingressClassName"]),
        json!(if hosts.is_empty() {
            "*".to_owned()
        } else {
            first_three(&hosts)
        }),
        json!(addresses.join(",")),
        json!(if items(&spec["tls"]).is_empty() {
            "80"
        } else {
            "80, 443"
        }),
        age(object, now),
    ]
}

pub(super) fn ingress_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &object["spec"];
    let reference = |part: &str| spec["parameters"][part].as_str().unwrap_or_default();
    let parameters = match (spec["parameters"].is_object(), reference("apiGroup")) {
        (false, _) => NONE.to_owned(),
        (true, "") => format!("{}/{}", reference("kind"), reference("name")),
        (true, group) => format!("{}.{group}/{}", reference("kind"), reference("name")),
    };
    vec![
        name(object),
        spec["controller"].clone(),
        json!(parameters),
        age(object, now),
    ]
}

pub(super) fn service_cidr(object: &Value, now: Timestamp) -> Vec<Value> {
    let cidrs = items(&object["spec"]["cidrs"]).iter();
    let cidrs = joined(cidrs.filter_map(Value::as_str));
    vec![name(object), json!(cidrs), age(object, now)]
}
