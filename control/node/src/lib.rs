//! The node agent: pods, images, probes, logs and exec.
