use std::process::ExitCode;

fn main() -> ExitCode {
    // kube and hyper-rustls ask for the process's provider; there is one, so it is never set twice.
    let _ = rustls::crypto::ring::default_provider().install_default();
    leasehold::cli::main()
}
