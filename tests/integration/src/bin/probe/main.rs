//! Tries to reach the network in every way a Linux process can, and prints what came of it: one line of JSON per
//! attempt. It knows nothing of the enforcer, so that it behaves the same inside a session and outside.
//!
//! ```text
//! probe net MAGIC [SPEC...]                       attempts; without SPEC, one per line of standard input
//! probe system SPEC...                            attempts at what is not the network: calls, processes, terminals
//! probe target                                    lets anybody trace it, says so, and waits for standard input to close
//! probe shape NAME MAGIC ALLOWED REFUSED          two TCP connections from a process of a certain shape
//! probe connect NAME MAGIC CHAIN ALLOWED REFUSED  what the shapes that exec run
//! probe quick-forks COUNT ADDRESS                 many short-lived children, each with one UDP connect()
//! probe connect-loop ALLOWED REFUSED              connects to both until standard input closes
//! probe connect-times FILE                        timed UDP connects, as standard input asks for them
//! probe tree WORKERS PAIRS ALLOWED REFUSED        processes that hold pairs of connections, and fork all the while
//! probe verdicts THREADS ADDRESS...               UDP connects from each thread to all, until standard input closes
//! probe hold                                      sockets that are held, and used as standard input says
//! probe flood COUNT ADDRESS                       so many TCP connections that all send, until none is left
//! probe dial COUNT ADDRESS                        so many TCP connections, one after another
//! probe race THREADS COUNT ADDRESS                so many UDP connects from threads that begin at one time
//! ```

mod attempt;
mod flood;
mod hold;
mod load;
mod shapes;
mod sys;
mod system;
mod tree;

use std::io::{self, BufRead};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["net", magic] => {
            for line in io::stdin().lock().lines() {
                attempt::run(magic, &line.expect("standard input is text"));
            }
        }
        ["net", magic, ref specs @ ..] => {
            for spec in specs {
                attempt::run(magic, spec);
            }
        }
        ["system", ref specs @ ..] => specs.iter().for_each(|spec| system::run(spec)),
        ["target"] => system::be_target(),
        ["shape", name, magic, allowed, refused] => {
            shapes::run(&shapes::Job::new(name, magic, allowed, refused));
        }
        ["connect", name, magic, chain, allowed, refused] => {
            shapes::Job::new(name, magic, allowed, refused).connect_after_exec(chain);
        }
        ["hold"] => hold::run(),
        ["flood", count, address] => flood::run(number(count), parse(address)),
        ["dial", count, address] => flood::dial(number(count), parse(address)),
        ["race", threads, count, address] => flood::race(number(threads), number(count), parse(address)),
        ["quick-forks", count, address] => load::quick_forks(number(count), parse(address)),
        ["connect-loop", allowed, refused] => load::connect_loop(parse(allowed), parse(refused)),
        ["connect-times", file] => load::connect_times(file.as_ref()),
        ["tree", workers, pairs, allowed, refused] => {
            tree::run(number(workers), number(pairs), parse(allowed), parse(refused));
        }
        ["verdicts", threads, ref addresses @ ..] => {
            load::verdicts(number(threads), &addresses.iter().map(|text| parse(text)).collect::<Vec<_>>());
        }
        _ => {
            eprintln!("usage: see the top of probe/main.rs; got {arguments:?}");
            std::process::exit(2);
        }
    }
}

fn parse(address: &str) -> std::net::SocketAddr {
    address.parse().unwrap_or_else(|_| panic!("not an address: {address}"))
}

fn number(text: &str) -> u32 {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}
