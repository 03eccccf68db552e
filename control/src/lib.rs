//! portolan: the Kubernetes API, controllers, scheduler and node agent, and a whole cluster on one machine.
