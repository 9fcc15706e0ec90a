"""The site's long-lived process: data, GPU, ledger and policy, behind a socket."""
