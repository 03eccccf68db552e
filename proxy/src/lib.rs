//! portolan-proxy: keeps a node's eBPF service load balancer equal to the Kubernetes API.
