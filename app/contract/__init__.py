"""What server, command line and worker say to each other, as typed models.

Heavy work runs in a child process, `python -m bitbudget.workers.child`: one `Task` as JSON on its
standard input, one `Event` as a JSON line each on its standard output, the last of them `finished`
or `failed`. The worker agent runs a lease that way, the command line its local commands.

Between agent and server: `POST /v1/workers` takes a `WorkerRegistration` and answers a
`WorkerWelcome`; `POST /v1/leases` takes a `LeaseClaim` and answers a `LeaseGrant`, or 204 with
Retry-After; `PUT /v1/leases/{id}` takes a `LeaseRenewal` and answers a `LeaseStatus`; `PUT
/v1/leases/{id}/result` takes a `LeaseResult`. Every write states its attempt; once the lease is
lost it gets 410 and the attempt stops.
"""
