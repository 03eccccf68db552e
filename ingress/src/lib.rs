//! portolan-ingress: routes HTTP by host and path, with TLS, from Ingress objects.
