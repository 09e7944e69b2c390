# make install and make uninstall: the program on this host, or below DESTDIR for a package or an image.

DESTDIR ?=
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
CODE := $(PREFIX)/lib/lockd
SBIN := $(PREFIX)/sbin
MAN := $(PREFIX)/share/man
# systemd looks for units below /usr and /usr/local only.
UNITS := $(if $(filter /usr /usr/local,$(PREFIX)),$(PREFIX),/usr/local)/lib/systemd
DROP_IN := $(UNITS)/system/virtlockd.service.d/lockd.conf

# Where libvirt brings its own unit, a drop-in makes that one run lockd: what the distribution
# changes in its units is then kept. UNIT=own or UNIT=drop-in overrides what is found.
LIBVIRT_UNIT := $(shell grep -sL '^# lockd under systemd' \
    $(DESTDIR)/lib/systemd/system/virtlockd.service $(DESTDIR)/usr/lib/systemd/system/virtlockd.service)
UNIT ?= $(if $(LIBVIRT_UNIT),drop-in,own)

MAN_PAGES := $(patsubst docs/man/%.rst,build/man/%,$(wildcard docs/man/*.rst))

COMPLETIONS := build/completions/lockctl build/completions/_lockctl build/completions/lockctl.fish
SHARE := $(DESTDIR)$(PREFIX)/share

.PHONY: man completions install install-completions install-code install-units install-configuration install-man uninstall

man: $(MAN_PAGES) ## build the manual pages in build/man

build/man/%: docs/man/%.rst $(VENV)/.run
	@mkdir -p $(@D)
	$(BIN)/rst2man --strict $< $@

completions: $(COMPLETIONS) ## build lockctl's completions for bash, zsh and fish in build/completions

build/completions/lockctl: SHELL_NAME := bash
build/completions/_lockctl: SHELL_NAME := zsh
build/completions/lockctl.fish: SHELL_NAME := fish
$(COMPLETIONS): scripts/completions $(wildcard lockd/ctl/*.py) $(VENV)/.run
	@mkdir -p $(@D)
	$(BIN)/python scripts/completions $(SHELL_NAME) >$@.new
	@mv $@.new $@

build/wheels: requirements/run.txt $(VENV)/.run $(shell find lockd -name '*.py')
	rm -rf $@
	$(PIP) wheel --require-hashes --no-build-isolation --requirement requirements/run.txt --wheel-dir $@
	@# From a copy: while modules are compiled, the build moves pyproject.toml aside. Interrupted, it would lose the file.
	source=$$(mktemp -d) && trap 'rm -rf "$$source"' EXIT INT TERM && \
	    cp -R pyproject.toml README.md LICENSE lockd "$$source" && find "$$source" -name '*.so' -delete && \
	    $(PIP) wheel --no-build-isolation --no-deps --wheel-dir $@ "$$source"
	@touch $@

install: install-code install-units install-configuration install-man install-completions ## install below DESTDIR; PREFIX is /usr/local
	@echo "installed; next: systemctl daemon-reload, then see Install in README.md"

install-code: build/wheels
	@if [ -e $(DESTDIR)$(SBIN)/virtlockd ] && [ ! -L $(DESTDIR)$(SBIN)/virtlockd ]; then \
	    echo "$(SBIN)/virtlockd is libvirt's own: choose another PREFIX, see docs/systemd.md" >&2; exit 1; fi
	scripts/install-code "$(DESTDIR)" "$(CODE)" build/wheels $(PYTHON)
	install -d $(DESTDIR)$(SBIN) $(DESTDIR)$(PREFIX)/bin
	ln -sfn $(CODE)/bin/virtlockd $(DESTDIR)$(SBIN)/virtlockd
	ln -sfn $(CODE)/bin/lockctl $(DESTDIR)$(PREFIX)/bin/lockctl

# The files in systemd/ name /usr/sbin/virtlockd; what is installed names the installed program.
INSTALLED_PATH := sed 's|/usr/sbin/virtlockd|$(SBIN)/virtlockd|'
# A drop-in must empty a list of commands before it sets it.
ONLY_SERVICE := sed -n '/^\[Service\]/,/^\[Install\]/{/^\[Install\]/d; s/^\(Exec[A-Za-z]*=\)/\1\n&/; p}'

install-units: uninstall-units
	install -d $(DESTDIR)$(UNITS)/system $(DESTDIR)$(UNITS)/user
ifeq ($(UNIT),own)
	$(INSTALLED_PATH) systemd/system/virtlockd.service >$(DESTDIR)$(UNITS)/system/virtlockd.service
	install -m 644 systemd/system/*.socket $(DESTDIR)$(UNITS)/system
else
	install -d $(DESTDIR)$(dir $(DROP_IN))
	{ echo "# libvirt's own virtlockd.service runs lockd: docs/systemd.md"; \
	  $(ONLY_SERVICE) systemd/system/virtlockd.service | $(INSTALLED_PATH); \
	} >$(DESTDIR)$(DROP_IN)
endif
	$(INSTALLED_PATH) systemd/user/virtlockd.service >$(DESTDIR)$(UNITS)/user/virtlockd.service
	install -m 644 systemd/user/*.socket $(DESTDIR)$(UNITS)/user

# An administrator's configuration is never touched; what is new in ours lies beside the documents.
install-configuration:
	install -d $(DESTDIR)$(PREFIX)/share/doc/lockd $(DESTDIR)$(SYSCONFDIR)/libvirt
	install -m 644 conf/*.conf $(DESTDIR)$(PREFIX)/share/doc/lockd
	for file in conf/*.conf; do \
	    test -e $(DESTDIR)$(SYSCONFDIR)/libvirt/$${file##*/} || \
	        install -m 644 $$file $(DESTDIR)$(SYSCONFDIR)/libvirt; \
	done

install-man: $(MAN_PAGES)
	for page in $(MAN_PAGES); do \
	    install -D -m 644 $$page $(DESTDIR)$(MAN)/man$${page##*.}/$${page##*/}; \
	done

install-completions: $(COMPLETIONS)
	install -D -m 644 build/completions/lockctl $(SHARE)/bash-completion/completions/lockctl
	install -D -m 644 build/completions/_lockctl $(SHARE)/zsh/site-functions/_lockctl
	install -D -m 644 build/completions/lockctl.fish $(SHARE)/fish/vendor_completions.d/lockctl.fish

# Below /usr, system units of these names may be those of libvirt's package.
UNIT_SETS := user $(if $(filter /usr,$(PREFIX)),$(if $(LIBVIRT_UNIT),,system),system)

.PHONY: uninstall-units
uninstall-units:
	rm -f $(DESTDIR)$(DROP_IN)
	[ ! -d $(DESTDIR)$(dir $(DROP_IN)) ] || rmdir --ignore-fail-on-non-empty $(DESTDIR)$(dir $(DROP_IN))
	rm -f $(addprefix $(DESTDIR)$(UNITS)/,$(foreach set,$(UNIT_SETS),$(addprefix $(set)/virtlockd,.service .socket -admin.socket)))

uninstall: uninstall-units ## remove what make install placed, except configuration
	rm -rf $(DESTDIR)$(CODE) $(DESTDIR)$(PREFIX)/share/doc/lockd
	rm -f $(DESTDIR)$(SBIN)/virtlockd $(DESTDIR)$(PREFIX)/bin/lockctl
	rm -f $(foreach page,$(notdir $(MAN_PAGES)),$(DESTDIR)$(MAN)/man$(lastword $(subst ., ,$(page)))/$(page))
	rm -f $(SHARE)/bash-completion/completions/lockctl $(SHARE)/zsh/site-functions/_lockctl
	rm -f $(SHARE)/fish/vendor_completions.d/lockctl.fish
