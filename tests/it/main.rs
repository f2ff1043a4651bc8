//! The one integration binary: every file beside this is a part of it.
mod activations;
mod bad_input;
mod cache;
mod chat;
mod cli;
mod determinism;
mod examples;
mod gptq;
mod hub;
mod hub_server;
mod memory;
mod page;
mod parity;
mod quality;
mod quantized;
mod skips;
mod tidy;
