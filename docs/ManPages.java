///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Writes the man pages of all commands into a folder.
//SOURCES ../DifyExec.java
//DEPS info.picocli:picocli-codegen:4.7.7
//DEPS org.asciidoctor:asciidoctorj:3.0.0
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED --sun-misc-unsafe-memory-access=allow

package difyexec;

import org.asciidoctor.*;
import picocli.CommandLine;
import picocli.CommandLine.Model.*;
import picocli.codegen.docgen.manpage.ManPageGenerator;

import module java.base;

import static difyexec.DifyExec.*;

/// Writes `difyexec.1`, `difyexec-run.1` and so on. picocli describes the commands in AsciiDoc, which Asciidoctor turns
/// into pages for `man`.
final class ManPages {
    private ManPages() {}

    static void main(String... args) throws IOException {
        if (args.length != 1) throw new IllegalArgumentException("name the folder of the man pages");
        var folder = Files.createDirectories(Path.of(args[0]));
        var drafts = Files.createTempDirectory("difyexec-man");
        var command = commandLine(new Env(_ -> null, "difyexec", drafts, drafts)).getCommandSpec();
        int code = ManPageGenerator.generateManPage(drafts.toFile(), null, new boolean[0], true,
                new CommandLine(withAllOptions(command)).getCommandSpec());
        if (code != 0) throw new IOException("picocli reported the code " + code);
        try (var asciidoctor = Asciidoctor.Factory.create(); var pages = Files.list(drafts)) {
            for (var draft : pages.sorted().toList()) {
                Files.writeString(draft, corrected(Files.readString(draft)));
                asciidoctor.convertFile(draft.toFile(), Options.builder().backend("manpage").safe(SafeMode.UNSAFE)
                        .toDir(folder.toFile()).build());
                Files.delete(draft);
            }
        }
        Files.delete(drafts);
    }

    /// Corrects the markup of repeatable options, and the headings of groups. A group without a heading belongs to the
    /// one before it.
    private static String corrected(String draft) {
        return draft.replace("*_=", "*=_").replaceAll("(?m)^== +(.*):$", "== $1").replace("== Options Group\n", "");
    }

    /// Copies a command, because options of a group cannot be changed. The copy shows all options, as `--help-all` does.
    private static CommandSpec withAllOptions(CommandSpec command) {
        var copy = CommandSpec.create().name(command.name()).usageMessage(command.usageMessage())
                .version(command.version());
        var line = command.commandLine();
        var synopsis = line.getHelpSectionMap().get(UsageMessageSpec.SECTION_KEY_SYNOPSIS).render(line.getHelp());
        copy.usageMessage().customSynopsis(synopsis.strip());
        command.argGroups().forEach(group -> copy.addArgGroup(copy(group)));
        command.args().stream().filter(arg -> arg.group() == null).map(ManPages::copy).forEach(copy::add);
        command.subcommands().forEach((name, each) -> copy.addSubcommand(name, withAllOptions(each.getCommandSpec())));
        return copy;
    }

    private static ArgGroupSpec copy(ArgGroupSpec group) {
        var copy = ArgGroupSpec.builder().heading(group.heading()).order(group.order()).validate(false);
        group.allOptionsNested().forEach(option -> copy.addArg(copy(option)));
        group.allPositionalParametersNested().forEach(parameter -> copy.addArg(copy(parameter)));
        return copy.build();
    }

    private static ArgSpec copy(ArgSpec arg) {
        return arg instanceof OptionSpec option ? OptionSpec.builder(option).hidden(false).build()
                : PositionalParamSpec.builder((PositionalParamSpec) arg).build();
    }
}
