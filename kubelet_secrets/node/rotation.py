"""Replaces a certificate in time: at 70 to 90 % of its life, sooner when what it has to say has changed.

One task for the node's client certificate, one for its serving certificate; started by the composition root. Nothing waits for
a rotation, and a failed one leaves the certificate there is.

Source: k8s.io/client-go/util/certificate/certificate_manager.go (rotateCerts, nextRotationDeadline); semantics §10.1.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import trio

from kubelet_secrets.client.kubeconfig import load_kubeconfig
from kubelet_secrets.client.rest import ApiClient, open_client
from kubelet_secrets.errors import ApiUnavailable, HostError, UsageError
from kubelet_secrets.node.certfiles import CertificateFiles
from kubelet_secrets.node.certificates import CertificateFacts, KeyPair, Template, make_request, read_certificate
from kubelet_secrets.node.signing import request_certificate

logger = logging.getLogger(__name__)

SIGN_TIMEOUT_S = 15 * 60
_LOOK_S = 10.0  # how often the template is compared, and the clock looked at: a machine may have slept
_UNKNOWN_S = 1.0  # the same as long as nobody knows what to ask for
_BACKOFF_S = (2.0, 4.0, 8.0, 16.0, 32.0)  # the last one for ever


class CertificateRotation:
    """See the module's text.

    Args:
        what: for log lines: ``client certificate``.
        template: what the certificate is to say, now; None as long as nobody knows.
        files: where the certificate is, and where the next one goes.
        use: told of each new certificate; raises UsageError to refuse it.
        clock: wall time, aware.
        bootstrap: the kubeconfig to ask with when the certificate has expired; without it, it is asked for in its own name.

    Attributes:
        failures: how many attempts came to nothing so far.
    """

    def __init__(
        self,
        what: str,
        client: ApiClient,
        template: Callable[[], Template | None],
        files: CertificateFiles,
        use: Callable[[KeyPair], None],
        *,
        clock: Callable[[], datetime],
        bootstrap: Path | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.failures = 0
        self._what = what
        self._client = client
        self._template = template
        self._files = files
        self._use = use
        self._clock = clock
        self._bootstrap = bootstrap
        self._jitter = jitter
        self._facts: CertificateFacts | None = None

    async def run(self, *, delay_s: float = 0) -> None:
        """Rotate whenever it is due, until cancelled.

        Args:
            delay_s: how long to leave the machine to those who are starting.

        Cancellation: the certificate is the old one or the new one; a request may stay with the API server.
        """
        await trio.sleep(delay_s)
        await self._load()
        failures = 0
        while True:
            await self._wait_due()
            if await self._rotate() and not self._is_due_again():
                failures = 0
                continue
            await trio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
            failures += 1
            self.failures += 1

    @property
    def expires_at(self) -> datetime | None:
        """The end of the certificate; None while there is none, or it has not been read."""
        return self._facts.not_after if self._facts is not None else None

    async def _load(self) -> None:
        try:
            pair = self._files.load()
            self._facts = await read_certificate(pair.certificate_pem) if pair is not None else None
        except HostError as error:
            logger.warning("%s: %s", self._what, error)

    async def _wait_due(self) -> None:
        deadline = self._facts.rotation_deadline(self._jitter()) if self._facts is not None else None
        if deadline is not None:
            logger.info("the %s will be replaced at %s", self._what, deadline.isoformat(timespec="seconds"))
        while True:
            template = self._template()
            if template is not None and (
                deadline is None or self._facts is None or self._clock() >= deadline or not self._facts.fits(template)
            ):
                return
            await trio.sleep(_LOOK_S if template is not None else _UNKNOWN_S)

    def _is_due_again(self) -> bool:
        """Whether the new certificate has no time left: asking at once would bring another such, and then another.

        Differs: upstream asks at once. Until 1.21 controllers signed for five minutes less than they were told to.
        """
        if self._facts is None or self._clock() < self._facts.rotation_deadline(0.0):
            return False
        until = self._facts.not_after.isoformat(timespec="seconds")
        logger.warning(
            "the %s is new and due again: it lasts until %s, by this machine's clock no time", self._what, until
        )
        return True

    async def _rotate(self) -> bool:
        """One attempt; False when there is no new certificate."""
        template = self._template()
        if template is None:
            return False
        try:
            request = await make_request(template)
            is_expired = self._facts is not None and self._clock() >= self._facts.not_after
            if is_expired and self._bootstrap is not None:
                async with open_client(load_kubeconfig(self._bootstrap)) as client:
                    pem = await request_certificate(client, template, request, is_first=False, timeout_s=SIGN_TIMEOUT_S)
            else:
                pem = await request_certificate(
                    self._client, template, request, is_first=False, timeout_s=SIGN_TIMEOUT_S
                )
            facts = await read_certificate(pem)
            pair = KeyPair(pem, request.key_pem)
            self._use(pair)  # before it is kept: one that cannot be used must not be what the next start finds
            self._files.save(pair, self._clock())
        except (HostError, ApiUnavailable, UsageError) as error:
            logger.warning("the %s was not replaced: %s", self._what, error)
            return False
        self._facts = facts
        logger.info("the %s was replaced; it lasts until %s", self._what, facts.not_after.isoformat(timespec="seconds"))
        return True
