//! serve-hostname: the sample application, a static server that answers its pod's name.
