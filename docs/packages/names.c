// Linked into the static program. Modules that /etc/nsswitch.conf names are of the system's own glibc, and loading one into a program with
// another glibc in it kills it: names are resolved by what is in the program.
#include <nss.h>

__attribute__((constructor)) static void own_names(void) {
    __nss_configure_lookup("hosts", "files dns");
    __nss_configure_lookup("passwd", "files");
}
