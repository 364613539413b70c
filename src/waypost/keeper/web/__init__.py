"""The keeper's HTTP: account pages, receipts and metrics, answered to the workers on a UNIX socket."""
