"""The coordinator's word to its sites that another authority signs its certificates from now on.

A numbered record under the study's key, which the sites know since they installed their kits: nobody needs
to telephone, and nobody in between can slip in an authority of their own.
"""

from pydantic import PositiveInt

from common.frozen import FrozenModel

NOTICE = "authority"


class AuthorityNotice(FrozenModel):
    """Which authorities a site believes.

    Attributes:
        number: Of this notice; a site that has seen one takes no smaller one.
        authorities: Certificates of the authorities, PEM, one or more.
    """

    number: PositiveInt
    authorities: str
