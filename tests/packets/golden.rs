//! Golden packets: one packet in, a verdict and a packet out.
