"""What a site is made of, on paper: addresses, names, certificates."""

import ipaddress
import json

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from darksite import certificates, site
from darksite.site import Site


def test_every_machine_has_an_address_of_its_own_on_the_lan() -> None:
    machines = Site("a", node_count=19).machines
    addresses = {ipaddress.ip_address(machine.address) for machine in machines}
    assert len(addresses) == len(machines)
    assert all(address in ipaddress.ip_network(site.LAN) for address in addresses)


def test_pod_subnets_neither_overlap_nor_leave_their_range() -> None:
    subnets = [ipaddress.ip_network(node.pod_subnet) for node in Site("a", node_count=19).nodes]
    assert all(subnet.subnet_of(ipaddress.ip_network(site.POD_RANGE)) for subnet in subnets)  # type: ignore[arg-type]
    assert len(set(subnets)) == 19
    assert not ipaddress.ip_network(site.POD_RANGE).overlaps(ipaddress.ip_network(site.LAN))


@pytest.mark.parametrize("name", ["", "Demo", "a-b", "../up", "ninechars"])
def test_a_name_that_could_not_stand_in_paths_and_interfaces_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a site name"):
        Site(name)


def test_a_certificate_says_who_it_is_for_and_is_signed_by_its_authority() -> None:
    authority = certificates.Authority("test")
    pair = authority.issue("system:node:n1", ["system:nodes"], ["n1", "10.90.0.11"])
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.pair.certificate))
    assert certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "system:nodes"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("10.90.0.11")]
    assert names.get_values_for_type(x509.DNSName) == ["n1"]


def test_a_kubeconfig_has_all_it_needs_inside() -> None:
    authority = certificates.Authority("test")
    text = certificates.kubeconfig("https://10.90.0.10:6443", authority.pair.certificate, authority.issue("a"), "a")
    document = json.loads(text)
    assert document["clusters"][0]["cluster"]["server"] == "https://10.90.0.10:6443"
    assert set(document["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}
