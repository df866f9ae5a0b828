//usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//GAV difyexec:difyexec:0.4.0
//DESCRIPTION Runs a Dify workflow once for every row of a CSV file: nothing lost, nothing paid twice.
//DOCS README.md
//DOCS guide=docs/guide.md
//DOCS troubleshooting=docs/troubleshooting.md
//DEPS info.picocli:picocli:4.7.7
//DEPS info.picocli:picocli-shell-jline3:4.7.7
//DEPS org.jline:jline:3.30.15
//DEPS com.fasterxml.jackson.core:jackson-databind:2.21.6
//DEPS com.opencsv:opencsv:5.12.0
//DEPS com.github.albfernandez:juniversalchardet:2.5.0
//DEPS org.apache.commons:commons-text:1.15.0
//DEPS io.github.cdimascio:dotenv-java:3.2.0
//DEPS org.dhatim:fastexcel-reader:0.20.2
//DEPS org.dhatim:fastexcel:0.20.2
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED -XX:+UseSerialGC -Xmn16m -XX:SurvivorRatio=3
//RUNTIME_OPTIONS -XX:TieredStopAtLevel=1
//MANIFEST Enable-Native-Access=ALL-UNNAMED

package difyexec;

import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.annotation.JsonInclude;
import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.annotation.JsonPropertyOrder;
import com.fasterxml.jackson.annotation.JsonSetter;
import com.fasterxml.jackson.annotation.JsonTypeInfo;
import com.fasterxml.jackson.annotation.JsonValue;
import com.fasterxml.jackson.annotation.Nulls;
import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.JsonParseException;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonPointer;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.StreamReadConstraints;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.core.StreamWriteFeature;
import com.fasterxml.jackson.core.exc.StreamConstraintsException;
import com.fasterxml.jackson.core.json.JsonReadFeature;
import com.fasterxml.jackson.core.util.JsonRecyclerPools;
import com.fasterxml.jackson.databind.DeserializationContext;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.ObjectWriter;
import com.fasterxml.jackson.databind.PropertyNamingStrategies;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.cfg.JsonNodeFeature;
import com.fasterxml.jackson.databind.deser.std.FromStringDeserializer;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.jsontype.NamedType;
import com.fasterxml.jackson.databind.module.SimpleModule;
import com.fasterxml.jackson.databind.node.NullNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.databind.node.TextNode;
import com.fasterxml.jackson.databind.ser.std.ToStringSerializerBase;
import com.fasterxml.jackson.databind.util.RawValue;
import com.opencsv.CSVWriter;
import io.github.cdimascio.dotenv.Dotenv;
import io.github.cdimascio.dotenv.DotenvException;
import java.net.Authenticator;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandler;
import java.net.http.HttpResponse.BodySubscriber;
import java.net.http.HttpResponse.BodySubscribers;
import java.security.cert.CertificateException;
import java.security.cert.CertificateExpiredException;
import java.security.cert.CertificateNotYetValidException;
import java.util.concurrent.ExecutionException;
import javax.xml.stream.XMLInputFactory;
import javax.xml.stream.XMLStreamException;
import javax.xml.stream.XMLStreamReader;
import org.apache.commons.compress.archivers.zip.ZipArchiveInputStream;
import org.apache.commons.text.StringEscapeUtils;
import org.apache.commons.text.WordUtils;
import org.apache.commons.text.similarity.LevenshteinDistance;
import org.dhatim.fastexcel.Workbook;
import org.dhatim.fastexcel.Worksheet;
import org.dhatim.fastexcel.reader.Cell;
import org.dhatim.fastexcel.reader.CellAddress;
import org.dhatim.fastexcel.reader.CellRangeAddress;
import org.dhatim.fastexcel.reader.CellType;
import org.dhatim.fastexcel.reader.ExcelReaderException;
import org.dhatim.fastexcel.reader.ReadableWorkbook;
import org.dhatim.fastexcel.reader.ReadingOptions;
import org.dhatim.fastexcel.reader.Sheet;
import org.dhatim.fastexcel.reader.SheetVisibility;
import org.jline.builtins.Completers;
import org.jline.reader.Candidate;
import org.jline.reader.Completer;
import org.jline.reader.EOFError;
import org.jline.reader.EndOfFileException;
import org.jline.reader.LineReader;
import org.jline.reader.LineReaderBuilder;
import org.jline.reader.ParsedLine;
import org.jline.reader.Parser;
import org.jline.reader.UserInterruptException;
import org.jline.reader.impl.DefaultParser;
import org.jline.reader.impl.history.DefaultHistory;
import org.jline.terminal.TerminalBuilder;
import org.jline.terminal.spi.SystemStream;
import org.jline.terminal.spi.TerminalProvider;
import org.jline.utils.Signals;
import org.mozilla.universalchardet.UniversalDetector;
import picocli.AutoComplete;
import picocli.CommandLine;
import picocli.CommandLine.ArgGroup;
import picocli.CommandLine.Command;
import picocli.CommandLine.IDefaultValueProvider;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.ArgSpec;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Model.OptionSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;
import picocli.CommandLine.TypeConversionException;
import picocli.shell.jline3.PicocliJLineCompleter;

import module java.base;
import module java.net.http;
import module jdk.httpserver;

import static difyexec.DifyExec.Event.*;
import static difyexec.DifyExec.Json.object;
import static java.nio.charset.StandardCharsets.ISO_8859_1;
import static java.nio.charset.StandardCharsets.UTF_8;
import static java.util.concurrent.TimeUnit.MILLISECONDS;
import static java.util.concurrent.TimeUnit.NANOSECONDS;
import static java.util.stream.Collectors.joining;

/// Runs a Dify workflow once for every row of a CSV file.
///
/// ```
/// Csv ──Row──▶ Agenda ──Attempt──▶ Engine ──▶ a virtual thread each: DifyClient ⇄ Dify
///                 ▲                  │  ▲                              │
///                 └──again, after────┤  └── mailbox: heard, answered ◀─┘
///                   Judge: Response ─▶ Verdict
///                                    └──Event──▶ log, results, retry list, Progress
/// ```
///
/// The engine's thread alone changes state; a worker makes one exchange and posts what it received.
///
/// | exit code | meaning |
/// | --- | --- |
/// | 0 | every requested row succeeded |
/// | 1 | internal error |
/// | 2 | unusable command line, settings or input; nothing was sent |
/// | 3 | rows failed, are paused, unknown or perhaps paid twice; `compare` or `verify` found problems, `pull` nothing |
/// | 4 | stopped early: refused, no answer, a limit, or a file that cannot be written |
/// | 130 | interrupted |
@Command(name = "difyexec", synopsisSubcommandLabel = "COMMAND",
        description = "Run a Dify workflow once for every row of a CSV file.",
        footer = {"  difyexec run --demo -i data.csv -o results.jsonl", "  difyexec status -o results.jsonl",
                "  difyexec help run"})
final class DifyExec implements Runnable {

    /// Lists all commands in the order in which help shows them.
    private static final List<Class<?>> COMMANDS = List.of(Check.class, Run.class, Status.class, Retry.class,
            Export.class, Shell.class, Compare.class, Verify.class, Merge.class, Pull.class,
            AutoComplete.GenerateCompletion.class, CommandLine.HelpCommand.class);

    @Mixin Console console;

    /// Starts the tool. `--version` is answered before anything else, because it does not need the command line's
    /// classes. Loading them takes 0.15 s, most of a short start.
    static void main(String... args) {
        if (args.length == 1 && Set.of("-V", "--version").contains(args[0])) {
            System.out.println(NAME_AND_VERSION);
            return;
        }
        setProperties();
        // ./jbang passes on its folder, whose .env is read, and the typed words, which the suggested commands repeat.
        // Without the words, the class path and the current folder show how the tool was started.
        var script = Objects.requireNonNullElse(System.getenv("DIFYEXEC_HOME"), "");
        var invocation = Env.findInvocation(System.getenv("DIFYEXEC_COMMAND"), List.of(args),
                System.getProperty("java.class.path"), Files.exists(Path.of("DifyExec.java")));
        var env = new Env(System::getenv, invocation, Path.of(""), Path.of(script));
        System.exit(commandLine(env, args).execute(args));
    }

    /// Sets properties that the HTTP client and JLine read only once, when their classes load. A property set with
    /// `-D` stays.
    static void setProperties() {
        var properties = System.getProperties();
        // Seconds. Dify 1.9 closes a connection after two idle seconds. A request that is sent just then is cut off,
        // and its run is unknown. Later versions wait for the client to close an idle connection, and until then it
        // takes one of the server's ten places.
        properties.putIfAbsent("jdk.httpclient.keepalive.timeout", "1");
        // Lets a proxy for https ask for a password, which Java does not allow by default.
        properties.putIfAbsent("jdk.http.auth.tunneling.disabledSchemes", "");
        // Bytes. Every connection has such buffers, and with many rows at a time Java's 16 KB cost too much memory.
        properties.putIfAbsent("jdk.httpclient.bufsize", "4096");
        // On Unix, JLine then calls `stty`. Without permission for native code, its own calls make Java print warnings.
        if (!DifyExec.class.getModule().isNativeAccessEnabled() && File.separatorChar == '/')
            properties.putIfAbsent("org.jline.terminal.provider", "exec");
    }

    /// Builds the command tree for an environment, which is a map in tests. Everything that a command prints goes
    /// through a writer that masks the API key. If the first argument is the name of a command, the tree has only that
    /// command, because picocli needs 0.1 s of processor time to read the options of all. `shell` needs all of them,
    /// because it runs most of the other commands.
    static CommandLine commandLine(Env settings, String... args) {
        var env = settings.with(args);
        var secret = env.secret();
        var line = new CommandLine(new DifyExec(), new CommandLines.Factory(env, UnaryOperator.identity())) {
            @Override
            public CommandLine setOut(PrintWriter out) {
                return super.setOut(secret.masking(out));
            }

            @Override
            public CommandLine setErr(PrintWriter err) {
                return super.setErr(secret.masking(err));
            }
        };
        var named = COMMANDS.stream().filter(type -> args.length > 0 && type != Shell.class
                && type.getSimpleName().toLowerCase(Locale.ROOT).equals(args[0])).toList();
        (named.isEmpty() ? COMMANDS : named).forEach(line::addSubcommand);
        line.getOut(); // picocli now creates the writers, and setOut and setErr above mask those of the whole tree
        line.getErr();
        return CommandLines.configure(line, new EnvDefaults(env, args), env) // a typed option replaces a setting
                .setParameterExceptionHandler((problem, words) -> { // scripts with --json rely on an outcome here too
                    var unusable = CommandLines.unusable(problem, env);
                    Work.report(unusable, problem.getCommandLine(), List.of(words));
                    return CommandLines.print(unusable, problem.getCommandLine());
                });
    }

    @Override
    public void run() {
        console.spec.commandLine().usage(console.out());
    }

    // ── Commands ────────────────────────────────────────────────────────────────────────────────────────────────────

    @Command(name = "run", description = "Run every row that has not succeeded yet.",
            footer = {"  difyexec run --demo -i data.csv -o results.jsonl",
                    "  difyexec run -i data.csv -o results.jsonl --limit 10",
                    "  difyexec run -i data.csv -o results.jsonl -c 10"})
    static final class Run implements Callable<Integer> {
        @Mixin Work work;
        @ArgGroup(validate = false, order = 3, heading = "") Batches batches = new Batches();

        @Override
        public Integer call() throws Exception {
            return work.start(batches.selection(), batches.fresh);
        }

        /// Holds the options for a whole batch. Their group has no heading of its own, so help shows them under the
        /// heading of the options for rows.
        static final class Batches {
            @Option(names = "--sample", paramLabel = "N",
                    description = "Run N random pending rows to estimate time and cost.")
            Long sample;

            @Option(names = "--seed", paramLabel = "S", hidden = true,
                    description = "Use this seed for --sample (default: a random one).")
            Long seed;

            @Option(names = "--pending-only", description = "Run only rows without an outcome, not failed ones.")
            boolean pendingOnly;

            @Option(names = "--rerun-changed", description = "Also run succeeded rows that changed in the CSV.")
            boolean rerunChanged;

            @Option(names = "--fresh", description = "Move an earlier batch's files aside and start over.")
            boolean fresh;

            Batch.Selection selection() {
                var pending = Batch.Selection.pending(pendingOnly, rerunChanged);
                if (sample == null && seed == null) return pending;
                // Work rejects --seed without --sample. A seed that is made up is short, because a person may type it.
                return pending.random(sample == null ? Long.MAX_VALUE : sample,
                        seed == null ? ThreadLocalRandom.current().nextLong(1, 1_000_000) : seed);
            }
        }
    }

    @Command(name = "retry", description = "Run failed rows again, or the given ids.",
            footer = {"  difyexec retry -i data.csv -o results.jsonl",
                    "  difyexec retry -i data.csv -o results.jsonl r-15 r-16"})
    static final class Retry implements Callable<Integer> {
        @Mixin Work work;

        @Parameters(paramLabel = "ID", arity = "0..*",
                description = "Run these ids (default: those in <output>.retry).")
        List<String> ids = List.of();

        @Option(names = "--force", description = "Also run ids that have already succeeded.")
        boolean force;

        @Override
        public Integer call() throws Exception {
            // in the shell, a retry of one row shows its run as it happens; several rows would be mixed
            if (ids.size() == 1 && work.setup.isInShell()) work.showRun(new RunView(work.setup.out()));
            // false, because there is no `retry --fresh`
            return work.start(ids.isEmpty() ? Batch.Selection.LISTED : Batch.Selection.named(ids, force), false);
        }
    }

    @Command(name = "status", description = "Show a batch's progress (offline, no key needed).",
            footer = {"  difyexec status -o results.jsonl",
                    "  difyexec status -o results.jsonl --html report.html"})
    static final class Status implements Callable<Integer> {
        @Mixin ResultsOption results;

        @Option(names = {"-i", "--input"}, paramLabel = "CSV",
                description = "Read rows from this file (default: the batch's).")
        Path input;

        @Mixin CsvOptions shape;

        @Option(names = "--json", description = "Print one JSON object.")
        boolean json;

        @Option(names = "--html", paramLabel = "FILE",
                description = "Write a report: one page with charts and all rows.")
        Path html;

        @Option(names = "--force", description = "Let --html overwrite a file that is not a report.")
        boolean force;

        @Mixin Console console;

        /// Shows the batch under `-o`. If only shards of it exist, shows those. The exit code is 0 only if every row
        /// has succeeded and all its files were saved, so that a script can wait for that.
        @Override
        public Integer call() throws IOException {
            var named = BatchFiles.of(results.file);
            if (!named.isStarted() && !Shards.beside(named).isEmpty()) return show(Shards.of(named));
            var files = named.requireStarted();
            try (var csv = open(files)) {
                // only the report shows single rows, so only then are their places in the files remembered
                var batch = Batch.peek(files, Optional.ofNullable(csv), html != null, List.of());
                if (html != null) {
                    files.requireWritableTarget(html, batch.inputs(),
                            file -> force || WebPage.isOurs(file, WebPage.MARK));
                    AtomicFile.write(html, file -> WebPage.report(batch, file));
                }
                if (json) console.out().println(Json.text(StatusView.json(batch)));
                else StatusView.print(batch, console.out(), console.paint(), console.next().suggestNext(batch));
                if (html != null) console.err().println("Report: " + html);
                boolean isDone = batch.index().isComplete() && batch.figures().missingFiles().isEmpty();
                return (isDone ? Exit.OK : Exit.ROWS_FAILED).code;
            }
        }

        /// Opens the input, so that rows that have not run are counted. It is the typed one, or otherwise that of the
        /// last session. Returns null if the last session's input is unknown, missing or unreadable. The status then
        /// shows only what the log contains, because the user did not ask for that file.
        private Csv open(BatchFiles files) throws IOException {
            if (input != null) return shape.open(input, files);
            var known = files.choices().input();
            if (known.isEmpty()) return null;
            var problem = "the input " + known.get() + " is missing";
            try {
                if (Files.isRegularFile(known.get())) return shape.open(known.get(), files);
            } catch (Unusable unusable) {
                problem = unusable.what();
            }
            console.err().println("Note: " + problem + "; rows that have not run are not counted.");
            return null;
        }

        /// Shows the shards of a batch that has not been merged yet. All of them run with the same options, so those of
        /// the first one are used to read the input and to suggest the next command.
        private int show(Shards shards) throws IOException {
            if (html != null) throw new Unusable("--html needs a merged batch", "run 'merge' first");
            // of every shard, because opening the input checks only that it is not a file of the first one
            if (input != null) for (var files : shards.files()) files.refuseAsInput(input);
            try (var csv = open(shards.files().getFirst())) {
                var view = StatusView.OfShards.of(shards, Optional.ofNullable(csv));
                if (json) console.out().println(Json.text(view.json()));
                else view.print(console.out(), console.paint(), console.next().suggestShard(view.missing(),
                        view.started().getFirst().history()));
                return (view.isComplete() ? Exit.OK : Exit.ROWS_FAILED).code;
            }
        }
    }

    @Command(name = "export", description = "Write the input back with outputs and outcomes added.",
            footer = {"  difyexec export -i data.csv -o results.jsonl out.csv",
                    "  difyexec export -i data.csv -o results.jsonl --failed f.csv",
                    "  difyexec export -i data.csv -o results.jsonl - | less"})
    static final class Export implements Callable<Integer> {
        @Mixin InputOption input;

        @Mixin ResultsOption results;

        @Parameters(paramLabel = "FILE", description = "Write this .csv or .xlsx file; - is CSV on standard output.")
        Path file;

        @Mixin CsvOptions shape;

        @Option(names = "--failed", description = "Write only failed, paused and unknown rows, without outputs.")
        boolean failed;

        @Option(names = "--raw", description = "Do not escape cells that look like formulas.")
        boolean raw;

        @Option(names = "--force", description = "Overwrite an existing file; leave out ids that are not in the CSV.")
        boolean force;

        @Mixin Console console;

        /// Reads the batch once before it writes anything, because the header needs the names of all outputs. All
        /// checks come before the first byte, because what went to standard output cannot be taken back.
        @Override
        public Integer call() throws IOException {
            var files = BatchFiles.of(results.file).requireStarted();
            boolean toFile = !file.toString().equals("-");
            var names = new LinkedHashSet<String>();
            try (var csv = shape.open(input.csv, files)) {
                var batch = Batch.peek(files, Optional.of(csv), true, // the offsets of the rows to write are kept
                        failed ? List.of() : List.of(Spreadsheet.addOutputs(names))); // failed rows have no outputs
                if (toFile) files.requireWritableTarget(file, batch.inputs(), _ -> force);
                if (toFile && !file.toString().toLowerCase(Locale.ROOT).matches(".*\\.(csv|xlsx)"))
                    throw new Unusable(file + ": must end in .csv or .xlsx");
                if (!force) batch.refuseStrangers(input.csv);
                StatusView.notes(batch).forEach(note -> console.err().println("Note: " + note + "."));
                // the input's delimiter, because the same program may open both
                var sheet = new Spreadsheet(file, csv.header().delimiter(), raw);
                IOConsumer<OutputStream> content = out -> sheet.export(batch, names, failed, out);
                if (toFile) AtomicFile.write(file, content);
                else { // not console.out(), because an export is always UTF-8; AtomicFile masks the API key itself
                    var masking = Secret.current().masking(System.out);
                    content.accept(masking);
                    masking.flush();
                }
                sheet.printSummary(console.err());
                console.err().println(console.next().suggestNext(batch));
                return Exit.OK.code;
            }
        }
    }

    @Command(name = "compare", description = "Compare two results files (offline). Exits with 3 if they differ.",
            footer = {"  difyexec compare A.jsonl B.jsonl",
                    "  difyexec compare --output /answer A.jsonl B.jsonl",
                    "  difyexec compare --html compare.html A.jsonl B.jsonl",
                    "  difyexec compare --first a1.jsonl a2.jsonl --second b1.jsonl b2.jsonl",
                    "  difyexec compare B.jsonl -i data.csv --expect wanted=/answer"})
    static final class Compare implements Callable<Integer> {
        @Parameters(arity = "0..2", paramLabel = "JSONL",
                description = "Read the earlier results from the first file, the later ones from the second.")
        List<Path> files = List.of();

        @Option(names = "--first", arity = "1..*", paramLabel = "FILE",
                description = "Read the earlier results from these files, one per run.")
        List<Path> first = List.of();

        @Option(names = "--second", arity = "1..*", paramLabel = "FILE",
                description = "Read the later results from these files, one per run.")
        List<Path> second = List.of();

        @Option(names = {"-i", "--input"}, paramLabel = "CSV", description = "Read expected values from this file.")
        Path input;

        @Option(names = "--expect", paramLabel = "COLUMN=/POINTER",
                description = "Check this output against the column (~= for a regular expression); repeatable.")
        List<String> expect = List.of();

        @Option(names = "--tolerance", paramLabel = "X", description = "Accept numbers that are off by at most X.")
        BigDecimal tolerance;

        @Option(names = "--output", paramLabel = "POINTER", defaultValue = "",
                description = "Compare only this part of the outputs, such as /answer or /items/0/name.")
        String part;

        @Option(names = "--ignore", paramLabel = "NAME", description = "Ignore this output; repeatable.")
        Set<String> ignored = Set.of();

        @Option(names = "--trim", description = "Ignore whitespace differences.")
        boolean trim;

        @Option(names = "--all", description = "Show all differences, not just ten.")
        boolean all;

        @Option(names = "--json", description = "Print one JSON object with all rows that differ.")
        boolean json;

        @Option(names = "--csv", paramLabel = "FILE",
                description = "Write all rows as CSV, with both outputs side by side.")
        Path csv;

        @Option(names = "--html", paramLabel = "FILE",
                description = "Write a page with metrics and all rows, differences marked.")
        Path html;

        @Option(names = "--junit", paramLabel = "FILE",
                description = "Write a JUnit report about the later file, with a test case for each row.")
        Path junit;

        @Option(names = "--force", description = "Overwrite existing files.")
        boolean force;

        @Mixin Console console;

        /// Checks the options and all files to write, compares, and only then writes. So a mistake leaves every file as
        /// it was.
        @Override
        public Integer call() throws IOException {
            if (!JsonDiff.POINTER.matcher(part).matches())
                throw new Unusable("--output " + part + ": not a JSON pointer, such as /answer/text");
            if (expect.isEmpty() != (input == null) || expect.isEmpty() && tolerance != null)
                throw new Unusable("--expect, -i and --tolerance are used together",
                        "such as -i data.csv --expect answer_expected=/answer");
            // in parallel, because each batch has its own files; true keeps the offsets of the rows to compare
            var sides = sides().parallelStream().map(side -> side.parallelStream().map(file ->
                    Batch.peek(BatchFiles.of(file).requireStarted(), Optional.empty(), true, List.of())).toList())
                    .toList();
            // a file to write must not belong to any of the batches, not even with --force
            for (var batch : sides.stream().flatMap(List::stream).toList()) {
                batch.history().unreadable().ifPresent(note -> console.err().println("Warning: " + note + "."));
                var files = batch.files();
                var inputs = Stream.concat(batch.inputs().stream(), Stream.ofNullable(input)).toList();
                if (csv != null) files.requireWritableTarget(csv, inputs, _ -> force);
                if (html != null)
                    files.requireWritableTarget(html, inputs, file -> force || WebPage.isOurs(file, WebPage.MARK));
                if (junit != null)
                    files.requireWritableTarget(junit, inputs,
                            file -> force || WebPage.isOurs(file, Comparison.JUNIT_MARK));
            }
            var scope = new Comparison.Scope(part, Set.copyOf(ignored), new JsonDiff(trim));
            // compare has no options such as --delimiter, so the CSV is read as in the later batch's last session
            var choices = sides.getLast().getFirst().files().choices();
            try (var data = input == null ? null : Csv.open(input, choices.shape());
                    var both = new Comparison(sides, scope, Expectations.of(data, expect, scope.diff(), tolerance))) {
                if (input != null && !both.hasJudgedRows()) // it is probably the CSV of another batch
                    throw new Unusable(input + ": no row has an expected value and a result",
                            "check that this is the right CSV");
                if (json) both.printJson(console.out());
                else both.print(console.out(), console.paint(), all);
                if (csv != null) {
                    var sheet = new Spreadsheet(csv, ',', false); // outputs may look like formulas, so escape them
                    AtomicFile.write(csv, file -> both.writeCsv(sheet, file));
                    sheet.printSummary(console.err());
                }
                if (html != null) {
                    AtomicFile.write(html, both::writePage);
                    console.err().println("Page: " + html);
                }
                if (junit != null) AtomicFile.write(junit, both::writeJUnit);
                return (both.hasDifferences() ? Exit.ROWS_FAILED : Exit.OK).code;
            } catch (Faulty fault) { // its hint may suggest an option that compare does not have
                throw new Unusable(fault.what(), "correct the file; compare reads it with the options of the last run");
            }
        }

        /// Returns the files of each side. Two plain arguments are a side each. One plain argument may not be mixed
        /// with --first or --second, because it would be unclear which side it is.
        private List<List<Path>> sides() {
            var named = Stream.of(first, second).filter(side -> !side.isEmpty());
            var sides = Stream.concat(files.stream().map(List::of), named).toList();
            boolean isOne = sides.size() == 1 && !expect.isEmpty();
            if (!isOne && (sides.size() != 2 || files.size() == 1)) throw new Unusable("compare needs two "
                    + "results files", "pass two, or more after --first and --second; with --expect, one is enough");
            // a file that is given twice would pass for two runs that agree in every row
            for (var side : sides) if (Set.copyOf(side).size() < side.size())
                throw new Unusable(Text.joinFirst(5, side.stream().map(Path::toString)) + ": a file is given twice",
                        "give each file once");
            return sides;
        }
    }

    @Command(name = "merge", description = "Combine the shards of 'run --shard' into one batch.",
            footer = {"  difyexec merge -i data.csv -o results.jsonl",
                    "  difyexec merge -i data.csv -o results.jsonl --partial"})
    static final class Merge implements Callable<Integer> {
        @Mixin InputOption input;

        @Option(names = {"-o", "--output"}, required = true, paramLabel = "JSONL",
                description = "Write merged results here; the same -o as in 'run --shard'.")
        Path output;

        @Mixin CsvOptions shape;

        @Option(names = "--partial", description = "Merge even if shards are missing.")
        boolean partial;

        @Option(names = "--no-bom", description = "Write results without a byte order mark.")
        boolean noBom;

        @Mixin Console console;

        /// Prints `Merged 3 of 3 shards: 20 rows, 19 succeeded, 1 failed`, then notes on anything unusual, and the next
        /// command.
        @Override
        public Integer call() throws IOException {
            var files = BatchFiles.of(output);
            try (var csv = shape.open(input.csv, files)) {
                var batch = Shards.Merger.merge(files, csv, partial, noBom);
                var index = batch.index();
                var merge = batch.history().last(MergeEvent.class).orElseThrow();
                // without colours, because such a line mostly goes to the log of a job
                console.err().println("Merged " + merge.merged() + " of " + Text.count(merge.shards(), "shard") + ": "
                        + Text.count(index.rows(), "row") + ", " + RowStatus.counts(index::count, Ansi.OFF::by));
                StatusView.notes(batch).forEach(note -> console.err().println("Note: " + note + "."));
                console.err().println(console.next().suggestNext(batch));
                return Exit.OK.code;
            }
        }
    }

    @Command(name = "check", description = "Check settings, server, app and every cell without starting a run.",
            footer = {"  difyexec check --demo -i data.csv", "  difyexec check -i data.csv --show 1"})
    static final class Check implements Callable<Integer> {
        @Mixin InputOption input;

        @Option(names = "--json", description = "Print one JSON object with all problems.")
        boolean json;

        @Option(names = "--show", paramLabel = "N", defaultValue = "0",
                description = "Print the requests of the first N rows as JSON and curl, key masked.")
        int show;

        @Option(names = "--shard", paramLabel = "I/N", description = "Check only the rows of shard I of N.")
        String shard;

        @Mixin DemoOption demo;
        @ArgGroup(validate = false, order = 1, heading = "%nInput:%n") CsvOptions shape = new CsvOptions();
        @ArgGroup(validate = false, order = 5, heading = "%nWorkflow:%n")
        WorkflowOptions workflow = new WorkflowOptions();
        @Mixin Setup setup;

        /// Checks the input against the server. `check` belongs to no batch, so the options of earlier sessions do not
        /// apply.
        @Override
        public Integer call() throws Exception {
            var retrying = setup.retrying();
            var part = Optional.ofNullable(shard).map(Shard::parse);
            try (var whole = shape.open(input.csv, workflow.queryColumn, Optional.empty())
                    .with(setup.edits)) {
                var csv = whole.with(part);
                try (var dify = setup.connect(demo.start(csv), workflow.workflowId, retrying, 1)) { // it starts no run
                    int code = report(csv, dify.greet(""), dify); // "" because a refusal leaves nothing undone here
                    if (code == Exit.OK.code && !json) setup.next().suggestRun(part).ifPresent(setup.out()::println);
                    return code;
                } catch (Unusable problem) {
                    Index.of(csv, _ -> {}); // faults of the file itself are found without the server and thrown instead
                    throw problem;
                }
            }
        }

        /// Reads every row once and checks its values. Reads the first rows again if their requests are to be shown.
        /// With --json, standard output contains only the JSON object, so that a script can parse it.
        private int report(Csv csv, ServerInfo server, Connection dify) throws InterruptedException, IOException {
            var out = setup.out();
            var inspection = dify.inspect(workflow, server, csv);
            if (json) out.println(Json.text(inspection));
            else CheckView.print(inspection, server, Screen.on(1).map(Screen::width), out); // 1 is standard output
            // the options that the file needs, such as --encoding
            if (!json && !inspection.options().isEmpty()) out.println("Next: " + setup.again(inspection.options()));
            if (show > 0 && inspection.isFine()) show(csv, server, dify, json ? setup.err() : out);
            return inspection.isFine() ? Exit.OK.code : Exit.UNUSABLE.code;
        }

        /// Prints the requests of the first rows. Indexes the CSV again, because the inspection kept no rows.
        private void show(Csv csv, ServerInfo server, Connection dify, PrintWriter out) throws InterruptedException {
            var form = dify.form(workflow, server, csv);
            var index = Index.of(csv, _ -> {});
            var shown = new BitSet();
            shown.set(0, Math.min(show, index.rows()));
            csv.rows(shown, index::fingerprint).forEachRemaining(row -> CheckView.printRequest(attempt(row, server),
                    form, dify.client().forApp(server.kind()), out));
        }

        /// Makes up an attempt that is never sent. Its user has the form of a real one, and its mode is that of a first
        /// run.
        private Attempt attempt(Row row, ServerInfo server) {
            var user = "difyexec-0123456789abcdef-1";
            var modes = new ModePolicy(workflow.mode, Optional.empty(), server.kind(), server.version());
            return new Attempt(0, row, Attempt.Tries.NONE, user, modes.mode(), row.hash(), Instant.EPOCH, false);
        }
    }

    @Command(name = "verify", description = {"Check results and attempts against the server's own records.",
                    "Read-only; works while the batch runs. Two or three requests per attempt."},
            footer = {"  difyexec verify -o results.jsonl", "  difyexec verify -o results.jsonl --sample 100"})
    static final class Verify implements Callable<Integer> {
        @Mixin ResultsOption results;

        @Option(names = "--json", description = "Print one JSON object with all findings.")
        boolean json;

        @Option(names = "--sample", paramLabel = "N", description = "Verify N rows chosen at random.")
        Long sample;

        @Option(names = "--seed", paramLabel = "N", description = "Use this seed for --sample (default: a random one).")
        Long seed;

        @Option(names = "--rate", paramLabel = "N/s|N/m|N/h",
                description = "Send at most N requests per second, minute or hour.")
        Pace.Rate rate;

        @Mixin SameAppOption sameApp;
        @Mixin Setup setup;

        /// Reads the files, then asks the server about each row. It must be the server and the app of the batch,
        /// because others do not have its runs, and every row would look wrong. No row waits for this command, so a
        /// refusal need not report what becomes of the rows (`""`).
        @Override
        public Integer call() throws Exception {
            var retrying = setup.retrying();
            var files = BatchFiles.of(results.file);
            Event.sessions(files.log()); // fails with a clear message if another version wrote the log
            var evidence = Verification.Evidence.of(files);
            long start = System.nanoTime();
            // without a demo, whose runs end with its process, and without a version, which selects only new runs
            try (var dify = setup.connect(Optional.empty(), "", retrying, Verification.ROWS_AT_ONCE)) {
                var origin = Origin.of(files);
                var server = dify.greet(origin, "");
                dify.identify(origin, server.kind(), sameApp.isSure, "");
                var ids = evidence.ids(sample, seed);
                var found = new Verification(evidence, dify.client(), server.kind() == AppKind.CHATFLOW,
                        Optional.ofNullable(rate)).findings(ids, setup.err());
                long attempts = ids.stream().mapToLong(id -> evidence.attempts(id).size()).sum();
                var seconds = Duration.ofNanos(System.nanoTime() - start);
                var findings = object();
                found.forEach((kind, all) -> findings.put(kind.key(), all));
                if (json) setup.out().println(Json.text(object("rows", ids.size(), "attempts", attempts, "server",
                        server.version(), "seconds", seconds.toMillis() / 1e3, "findings", findings)));
                else {
                    setup.out().println(Text.count(ids.size(), "row") + ", " + Text.count(attempts, "attempt")
                            + ", checked against Dify " + server.version() + " in " + Text.seconds(seconds));
                    Verification.print(found, setup.out());
                }
                // if there are none, a known run must be enough to confirm the batch
                boolean hasResults = ids.stream().anyMatch(evidence.results()::containsKey);
                return Verification.exit(found.keySet(), hasResults).code;
            }
        }
    }

    @Command(name = "pull", description = {"Write the app's real runs as rows of the next batch, newest first.",
                    "-o rows.jsonl also writes their outputs to rows.baseline.jsonl, for 'compare'."},
            footer = {"  difyexec pull -o rows.jsonl",
                    "  difyexec pull -o rows.jsonl --last 500 --since 7d --dedupe"})
    static final class Pull implements Callable<Integer> {
        @Option(names = {"-o", "--output"}, required = true, paramLabel = "JSONL", description = "Write rows here.")
        Path output;

        @Mixin AppRuns.Wanted wanted;

        @Option(names = "--force", description = "Overwrite existing files.")
        boolean force;

        @Mixin Setup setup;

        /// Checks first that neither file exists or belongs to a batch, whose log would then be about other rows. Each
        /// file is also checked against the files that a batch under the other name would have. The demo has no earlier
        /// runs, and a version selects only new ones, so `connect` gets neither.
        @Override
        public Integer call() throws Exception {
            var retrying = setup.retrying();
            var name = output.getFileName().toString();
            var baseline = output.resolveSibling(name.replaceFirst("(\\.[^.]*)?$", ".baseline$1"));
            BatchFiles.of(baseline).requireNoBatch().requireWritableTarget(output, List.of(), _ -> force);
            BatchFiles.of(output).requireNoBatch().requireWritableTarget(baseline, List.of(), _ -> force);
            setup.err().println("Note: the inputs and outputs of real runs may contain personal data.");
            try (var dify = setup.connect(Optional.empty(), "", retrying, 1)) { // asks for one page or run at a time
                var runs = new AppRuns(dify, wanted);
                runs.read();
                runs.write(output, baseline, setup.next());
            }
            return Exit.OK.code;
        }
    }

    // ── Shell ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Runs commands on one open batch. A person types them on a terminal, or a script contains them. The options of
    /// `shell` are the defaults of these commands.
    ///
    /// ```
    /// Dialogue or script ──line──▶ ShellSession: the open batch, edits ──▶ its own commands, or those of the tool
    /// ```
    @Command(name = "shell",
            description = "Fix failed rows one by one. Reads commands from standard input if that is not a terminal.",
            footer = {"  difyexec shell --demo -i data.csv -o results.jsonl",
                    "  difyexec shell -i data.csv -o results.jsonl <script.txt",
                    "  difyexec shell"})
    static final class Shell implements Callable<Integer> {
        @Option(names = {"-i", "--input"}, paramLabel = "CSV", description = "Open the batch with these rows.")
        Path input;

        @Option(names = {"-o", "--output"}, paramLabel = "JSONL", description = "Open the batch with these results.")
        Path output;

        @Mixin DemoOption demo;

        @Option(names = "--keep-going",
                description = "In a script, continue after a failed command. The highest exit code counts.")
        boolean keepGoing;

        @ArgGroup(validate = false, order = 1, heading = "%nInput:%n") CsvOptions shape = new CsvOptions();
        @ArgGroup(validate = false, order = 5, heading = "%nWorkflow:%n")
        WorkflowOptions workflow = new WorkflowOptions();
        @ArgGroup(validate = false, order = 7, heading = "%nRetrying:%n") RunOptions retrying = new RunOptions();
        @Mixin Setup setup;

        /// Starts a dialogue if standard input is a terminal. Otherwise reads it as a script.
        @Override
        public Integer call() throws IOException {
            var session = session();
            return Screen.on(0).isPresent() ? Dialogue.run(session, setup.env)
                    : script(session, new InputStreamReader(System.in, UTF_8), keepGoing);
        }

        /// Starts a session, with a batch if one was given. Checks the settings now, so that a mistake is reported
        /// before the first command.
        ShellSession session() {
            setup.check(retrying);
            var session = new ShellSession(this);
            if (output != null) session.open(Optional.ofNullable(input), output);
            return session;
        }

        /// Runs a script and returns the highest exit code. Failed rows do not end the script, because a later command
        /// may retry or export them. An interrupt ends it even with --keep-going.
        static int script(ShellSession session, Reader commands, boolean keepGoing) throws IOException {
            var lines = new LineNumberReader(commands);
            int highest = Exit.OK.code, number = 1;
            for (var line = command(lines); line != null && !session.isExited(); line = command(lines)) {
                int code = session.execute(line);
                highest = Math.max(highest, code);
                if (code != Exit.OK.code && code != Exit.ROWS_FAILED.code) {
                    boolean ends = !keepGoing || code == Exit.INTERRUPTED.code;
                    // the command has reported its reason already, but not where it is in the script
                    session.err.println("difyexec: line " + number + ": command failed (exit code " + code + ")"
                            + (ends ? "; the script ends here" : ""));
                    session.err.flush();
                    if (ends) break;
                }
                number = lines.getLineNumber() + 1; // where the next command begins; it may have several lines
            }
            return highest;
        }

        /// Returns the next line, with the lines after it while a quote is open. Returns null after the last line.
        static String command(BufferedReader lines) throws IOException {
            var line = lines.readLine();
            while (line != null && words(line).isEmpty()) {
                var more = lines.readLine();
                if (more == null) break;
                line += "\n" + more;
            }
            return line;
        }

        /// Splits a line into words, with quotes as in `text="two words"`. JLine removes quotes around a whole word,
        /// but not those after `text=`. Returns empty while a quote is open. A line that starts with `#` is a comment
        /// and has no words, so a quote in it opens nothing.
        static Optional<List<String>> words(String line) {
            if (line.startsWith("#")) return Optional.of(List.of());
            try {
                return Optional.of(new DefaultParser().eofOnUnclosedQuote(true)
                        .parse(line, -1, Parser.ParseContext.ACCEPT_LINE).words().stream() // -1 means without a cursor
                        .map(word -> word.replaceFirst("(?s)^([^=\"']*=)([\"'])(.*)\\2$", "$1$3")).toList());
            } catch (EOFError _) {
                return Optional.empty();
            }
        }

        /// Runs the shell on a terminal. Only this type loads JLine's line editor, so that a script starts faster.
        static final class Dialogue {
            /// Sets up the line editor and runs the dialogue. A line that contains an API key is left out of the
            /// history, which is kept in a file.
            static int run(ShellSession session, Env env) throws IOException {
                // `dumb` allows a terminal that JLine cannot control, such as that of an editor, without a warning
                try (var terminal = TerminalBuilder.builder().system(true).dumb(true).build()) {
                    var reader = LineReaderBuilder.builder().terminal(terminal).appName("difyexec")
                            .parser(new DefaultParser().eofOnUnclosedQuote(true)) // Enter in a quote starts a new line
                            .completer(new Completion(session))
                            .history(new DefaultHistory() {
                                @Override
                                public void add(Instant time, String line) {
                                    if (env.secret().mask(line).equals(line)) super.add(time, line);
                                }
                            })
                            .option(LineReader.Option.DISABLE_EVENT_EXPANSION, true) // a value may contain `!`
                            .option(LineReader.Option.INSERT_TAB, false) // Tab lists the commands on an empty line
                            .variable(LineReader.SECONDARY_PROMPT_PATTERN, "  > ") // the prompt while a quote is open
                            .variable(LineReader.BELL_STYLE, "none").build(); // no beep if nothing can be completed
                    remember(reader, env);
                    session.out.println(NAME_AND_VERSION + session.summary().map(" · "::concat).orElse("")
                            + "\nStart with: failures, show ID, retry ID, help. Ctrl-D exits.");
                    session.out.flush();
                    converse(session, reader);
                    return Exit.OK.code;
                }
            }

            /// Keeps the history in a folder that only this user can read, because typed commands may contain inputs.
            /// If the folder cannot be used, the history ends with the session.
            private static void remember(LineReader reader, Env env) {
                var chosen = env.get("XDG_STATE_HOME");
                var state = chosen.isEmpty() ? System.getProperty("user.home") + "/.local/state" : chosen;
                var folder = Path.of(state, "difyexec");
                if (!folder.isAbsolute()) return; // the home is unknown to Java, or XDG_STATE_HOME is invalid
                var history = folder.resolve("history");
                try {
                    Files.createDirectories(folder);
                    if (folder.getFileSystem().supportedFileAttributeViews().contains("posix")) {
                        Files.setPosixFilePermissions(folder, PosixFilePermissions.fromString("rwx------"));
                        if (Files.exists(history)) // JLine warns if others may read it
                            Files.setPosixFilePermissions(history, PosixFilePermissions.fromString("rw-------"));
                    }
                    reader.setVariable(LineReader.HISTORY_FILE, history);
                } catch (IOException _) {
                    // The shell works without a file for its history.
                }
            }

            /// Reads and runs commands until the user exits. The first attempt to exit with unsaved edits only warns.
            /// Further edits cause a new warning.
            private static void converse(ShellSession session, LineReader reader) throws IOException {
                var warned = "";
                while (!session.isExited()) {
                    try {
                        // the prompt contains a file name, and JLine would read a % in it as a pattern
                        execute(session, reader.readLine(session.prompt().replace("%", "%%")));
                    } catch (UserInterruptException _) {
                        // Ctrl-C discards the typed line.
                    } catch (EndOfFileException _) {
                        session.exit();
                    }
                    var edits = session.edits.summary();
                    if (!session.isExited() || !session.edits.isUnsaved() || edits.equals(warned)) continue;
                    session.stay(new Unusable(edits + " not saved",
                            "'save FILE.csv' keeps the edits; exit again to discard them"));
                    warned = edits;
                }
            }

            /// Runs each line of a pasted block as a command. Ctrl-C stops the running command and drops the other
            /// lines.
            private static void execute(ShellSession session, String pasted) throws IOException {
                var lines = new BufferedReader(new StringReader(pasted));
                for (var line = command(lines); line != null && !session.isExited(); line = command(lines)) {
                    // without this, Ctrl-C would end the shell, and the edits would be lost
                    var former = Signals.register("INT", Thread.currentThread()::interrupt);
                    try {
                        if (session.execute(line) == Exit.INTERRUPTED.code) return;
                    } finally {
                        Signals.unregister("INT", former);
                        Thread.interrupted(); // the interrupt was meant for the command, which has ended
                    }
                }
            }
        }

        /// Completes commands, options, ids, columns and files. Picocli's own completion would propose the values of
        /// all parameters of a command at once.
        record Completion(ShellSession session) implements Completer {
            /// A batch may have a million ids, and a terminal shows far fewer.
            private static final int MAX_CANDIDATES = 1000;

            /// Proposes files and the session's own values first. If there are none, picocli proposes commands and
            /// options.
            @Override
            public void complete(LineReader reader, ParsedLine line, List<Candidate> candidates) {
                var commands = session.commandLine();
                var arg = arg(commands.getSubcommands().get(line.words().getFirst()), line);
                if (arg.isPresent() && arg.get().auxiliaryTypes()[0] == Path.class) // of a list, the type of an element
                    new Completers.FileNameCompleter().complete(reader, line, candidates);
                else if (arg.isPresent()) {
                    var typed = line.word().substring(0, line.wordCursor());
                    var cell = session.presentCell(line.words(), typed);
                    if (cell.isPresent()) { // written as is, because JLine would escape only some quotes of a candidate
                        reader.getBuffer().write(cell.get());
                        return;
                    }
                    session.values(arg.get().paramLabel(), commands).filter(word -> word.startsWith(typed))
                            .limit(MAX_CANDIDATES)
                            .forEach(word -> candidates.add(candidate(word, candidates.size())));
                }
                if (candidates.isEmpty())
                    new PicocliJLineCompleter(commands.getCommandSpec()).complete(reader, line, candidates);
            }

            /// Creates a candidate. JLine sorts candidates by their `place`. No space follows `COLUMN=`, because the
            /// value comes next. The nulls are a group, a description, a suffix and a key.
            private static Candidate candidate(String word, int place) {
                var shown = Text.printable(word, Integer.MAX_VALUE); // an id may contain control characters
                return new Candidate(word, shown, null, null, null, null, !word.endsWith("="), place);
            }

            /// Returns the option or parameter that the word at the cursor belongs to, or empty if there is none. The
            /// word belongs to the option before it if that needs a value. Word 0 is the command, so word 1 is
            /// parameter 0.
            private static Optional<ArgSpec> arg(CommandLine command, ParsedLine line) {
                int at = line.wordIndex();
                if (command == null || at < 1 || line.word().startsWith("-")) return Optional.empty();
                var spec = command.getCommandSpec();
                var option = spec.findOption(line.words().get(at - 1));
                if (option != null && option.arity().min() > 0) return Optional.of(option);
                return spec.positionalParameters().stream().filter(one -> one.index().contains(at - 1))
                        .<ArgSpec>map(one -> one).findFirst();
            }
        }
    }

    /// Holds the open batch, its edits and the commands for them. Only the thread that runs the commands uses it.
    @Command(name = "dify>", synopsisSubcommandLabel = "COMMAND",
            description = "Fix the failed rows of the open batch.", subcommands = CommandLine.HelpCommand.class,
            footer = {"%nQuote a value with spaces or line breaks, and double a backslash:  set r-7 text=\"two words\"",
                    "'help COMMAND' shows the options of a command."})
    static final class ShellSession {
        final Edits edits = new Edits();
        final PrintWriter out, err;

        private final Shell shell;
        private boolean isExited = false;
        private Batch batch; // null until a batch is opened
        private List<String> stamps; // time and size of each of its files as it was read

        ShellSession(Shell shell) {
            this.shell = shell;
            this.out = shell.setup.out();
            this.err = shell.setup.err();
        }

        /// Runs a command and returns its exit code. Flushes, because nothing else does before the next prompt.
        int execute(String line) {
            var words = Shell.words(line);
            int code = Exit.OK.code;
            if (words.isEmpty()) {
                err.println("difyexec: missing closing quote");
                code = Exit.UNUSABLE.code;
            } else if (!words.get().isEmpty()) code = commandLine().execute(words.get().toArray(String[]::new));
            out.flush();
            err.flush();
            return code;
        }

        /// Builds the session's own commands and most of the tool's. They are built again for each line, because
        /// picocli keeps the values of options. Left out are `pull`, which does not work on a batch, a shell in the
        /// shell, and what only the caller's shell can use. `help` is added by the annotation of this class.
        CommandLine commandLine() {
            var env = shell.setup.env;
            var line = new CommandLine(this, new CommandLines.Factory(env, edits));
            for (var command : shell.setup.spec.commandLine().getParent().getSubcommands().values()) {
                var type = command.getCommandSpec().userObject().getClass();
                if (!Set.of("pull", "shell", "help", "generate-completion").contains(command.getCommandName()))
                    line.addSubcommand(type);
            }
            return CommandLines.configure(line, this::defaultOf, env).setOut(out).setErr(err)
                    .setExpandAtFiles(false) // an id may begin with @, which picocli takes for a file of arguments
                    .setExecutionStrategy(this::run);
        }

        /// Runs a command. Rejects `--env-file`, because the settings were read when the shell started. With an open
        /// batch, also rejects `-i` and `-o`, because one of them alone would mix the files of two batches.
        private int run(CommandLine.ParseResult parsed) {
            var command = parsed.asCommandLineList().getLast();
            var typed = command.getParseResult();
            if (typed.hasMatchedOption("--env-file")
                    || batch != null && (typed.hasMatchedOption("-i") || typed.hasMatchedOption("-o")))
                throw new CommandLine.ExecutionException(command, "",
                        new Unusable("-i, -o and --env-file cannot be changed in the shell",
                                "leave them out; 'open CSV JSONL' opens another batch"));
            return new CommandLine.RunLast().execute(parsed);
        }

        /// Returns an option's default. The open batch comes first, then the options of `shell`, then the environment.
        private String defaultOf(ArgSpec arg) {
            if (!(arg instanceof OptionSpec option)) return null; // for null, picocli uses the command's own default
            var name = option.shortestName();
            if (name.equals("-o") && batch != null) return batch.files().results().toString();
            if (name.equals("-i") && csvPath().isPresent()) return csvPath().get().toString();
            var typed = shell.setup.spec.commandLine().getParseResult().matchedOption(name);
            return typed == null ? new EnvDefaults(shell.setup.env).defaultValue(arg)
                    : String.join("\0", typed.originalStringValues()); // CsvOptions splits --map and --var there
        }

        @Command(name = "open", description = "Open a batch.")
        void open(@Parameters(paramLabel = "CSV", description = "The CSV with the rows.") Path input,
                @Parameters(paramLabel = "JSONL", description = "The results file. It may not exist yet.") Path output,
                @Option(names = "--force", description = "Discard unsaved edits.") boolean force) {
            if (edits.isUnsaved() && !force) throw new Unusable(edits.summary() + " not saved",
                    "'save FILE.csv' keeps the edits; 'open --force' discards them");
            open(Optional.of(input), output);
            edits.byId.clear();
            out.println(summary().orElseThrow());
        }

        @Command(name = "failures", description = "List rows that are failed, paused or unknown.")
        void failures(@Parameters(arity = "0..1", paramLabel = "TEXT", defaultValue = "",
                description = "Only rows with this text in their id or error.") String text) {
            var index = batch().index();
            var rows = index.onRetryList()
                    // 160 characters are two lines of a terminal
                    .mapToObj(row -> Text.id(index.id(row)) + "  " + Text.printable(Cause.of(batch, row).words(), 160))
                    .filter(line -> line.toLowerCase(Locale.ROOT).contains(text.toLowerCase(Locale.ROOT))).toList();
            if (rows.isEmpty()) out.println("No failed, paused or unknown rows"
                    + (text.isEmpty() ? "." : " with " + Text.quoted(text) + " in their id or error."));
            // more than 50 rows would scroll off the screen
            Text.printFirst(rows, 50, row -> out.println("  " + row), "  %s ('failures TEXT' lists fewer)", out);
        }

        @Command(name = "show", description = "Show a row: inputs, attempts, outputs.")
        void show(@Parameters(paramLabel = "ID", description = "The row's id.") String id,
                @Option(names = "--full", description = "Show long values in full.") boolean full) throws IOException {
            // "" because the message begins with no option's name
            new RowView(full, out).print(batch(), batch.requireEntry(id.strip(), ""), edits);
        }

        @Command(name = "set", description = {"Change inputs of rows in this session.",
                "'retry' and 'run' check and send them, 'save' writes them to a CSV."})
        void set(@Parameters(paramLabel = "ROWS", description = "An id, several as A,B,C, or 'failed'.")
                String word,
                @Parameters(arity = "1..*", paramLabel = "COLUMN=VALUE", description = "New values of inputs.")
                Map<String, String> cells) {
            cells.keySet().forEach(this::requireInput);
            setCells(rows(word), cells);
        }

        @Command(name = "edit", description = "Change an input of a row in an editor: $VISUAL, else $EDITOR.")
        void edit(@Parameters(paramLabel = "ID", description = "The row's id.") String id,
                @Parameters(paramLabel = "COLUMN", description = "The column to change.") String column)
                throws IOException, InterruptedException {
            requireInput(column);
            var row = row(id);
            setCells(List.of(row), Map.of(column, openInEditor(edits.apply(row).inputs().get(column))));
        }

        /// Edits rows and prints their edits, so that a mistyped value is noticed before the rows are sent.
        private void setCells(List<Row> rows, Map<String, String> cells) {
            rows.forEach(row -> edits.set(row, cells));
            Text.printFirst(rows, 20, this::printEdits, "%s rows ('edits' shows all)", out);
            if (rows.size() > 1) out.println("Set " + Text.count(rows.size(), "row") + ".");
        }

        /// Opens the text in an editor and returns what the user saved. Only this user can read the temporary file,
        /// because `createTempFile` gives it such permissions. The editor is a command for `sh`, so it may contain
        /// options.
        private String openInEditor(String text) throws IOException, InterruptedException {
            var editor = Stream.of("VISUAL", "EDITOR").map(shell.setup.env.environment())
                    .filter(command -> command != null && !command.isBlank()).findFirst()
                    .orElseThrow(() -> new Unusable("neither VISUAL nor EDITOR names an editor",
                            "set one of them before you start the shell, or use 'set'"));
            var file = Files.createTempFile("difyexec-", ".txt");
            var trap = File.separatorChar == '/' ? "trap : INT; " : ""; // Ctrl-C is for the editor, not for its shell …
            var former = Signals.register("INT", () -> {}); // … and not for this process
            try {
                Files.writeString(file, text);
                var command = Text.command(trap + editor + " \"" + file + '"');
                int code = new ProcessBuilder(command).inheritIO().start().waitFor();
                if (code != 0) throw new Unusable("the editor failed, so nothing was changed ("
                        + Text.printable(editor, 60) + ": exit code " + code + ")");
                // Editors add a line break to the last line, which the text did not have.
                return text.endsWith("\n") ? Files.readString(file) : Files.readString(file).replaceFirst("\\R\\z", "");
            } catch (IOException problem) {
                throw new Unusable("the edited text cannot be read as UTF-8, so nothing was changed ("
                        + Text.reason(problem) + ")");
            } finally {
                Signals.unregister("INT", former);
                Files.deleteIfExists(file);
            }
        }

        @Command(name = "unset", description = "Undo edits of rows.")
        void unset(@Parameters(paramLabel = "ROWS", description = "An id, several as A,B,C, or 'failed'.")
                String word) {
            var ids = rows(word).stream().map(Row::id).toList();
            if (!edits.byId.keySet().removeAll(ids)) throw new Unusable(Text.quoted(word) + " has no edits");
        }

        @Command(name = "edits", description = "Show the edits as a diff against the CSV.")
        void edits() {
            if (!edits.byId.isEmpty()) batch().rows(entry -> edits.byId.containsKey(batch.index().id(entry)))
                    .forEachRemaining(this::printEdits);
            out.println(edits.byId.isEmpty() ? "No edits."
                    : edits.summary() + ". 'save FILE.csv' writes the CSV with them.");
        }

        /// Prints the edits of a row like a diff. A long line is cut, and `show --full` shows all of it.
        private void printEdits(Row row) {
            var cells = edits.of(row);
            out.println(Text.id(row.id()) + (cells.isEmpty() ? ": same as in the CSV" : ""));
            cells.forEach((column, cell) -> {
                out.println("  " + Text.printable(column, 40));
                row.inputs().get(column).lines().forEach(line -> out.println("  - " + Text.printable(line, 300)));
                cell.lines().forEach(line -> out.println("  + " + Text.printable(line, 300)));
            });
        }

        @Command(name = "save", description = "Write the whole CSV with the edits.")
        void save(@Parameters(paramLabel = "CSV", description = "The file to write.") Path file,
                @Option(names = "--force", description = "Overwrite the file.") boolean force) throws IOException {
            if (file.toString().toLowerCase(Locale.ROOT).endsWith(".xlsx"))
                throw new Unusable(file + ": 'save' writes only CSV", "choose a name that ends in .csv");
            var csv = csv();
            // no inputs, because save may replace the open CSV, unlike export
            batch.files().requireWritableTarget(file, List.of(), _ -> force);
            boolean isOpenCsv = Storage.isSame(file, csv.file().input());
            edits.save(csv, batch.index(), file);
            out.println("Saved " + Text.count(batch.index().rows(), "row") + " to "
                    + Text.printable(file.toString(), 200) + " with " + edits.summary() + ".");
            if (isOpenCsv) edits.byId.clear(); // the CSV now contains them
        }

        @Command(name = "exit", aliases = "quit", description = "Exit the shell, like Ctrl-D.")
        void exit() {
            isExited = true;
        }

        boolean isExited() {
            return isExited;
        }

        /// Cancels an exit and prints the reason.
        void stay(Unusable why) {
            isExited = false;
            out.println(why.text());
            out.flush();
        }

        /// Opens a batch, then closes the CSV of the previous one. If opening fails, the previous batch stays open.
        void open(Optional<Path> input, Path output) {
            var files = BatchFiles.of(output);
            var stampsBefore = stamps(files, input); // taken before reading, so that a later write is noticed
            var csv = input.map(path -> shell.shape.open(path, shell.workflow.queryColumn,
                    Optional.of(files)));
            var opened = Batch.peek(files, csv, true, List.of()); // true, because `show` shows single rows
            if (batch != null) batch.csv().ifPresent(Csv::close);
            batch = opened;
            stamps = stampsBefore;
        }

        /// Returns the open batch. Reads it again if the time or size of one of its files or of the CSV has changed,
        /// because `retry` or another process has written it.
        private Batch batch() {
            if (batch == null) throw new Unusable("no batch is open", "'open CSV JSONL' opens one");
            if (!stamps(batch.files(), csvPath()).equals(stamps)) open(csvPath(), batch.files().results());
            return batch;
        }

        private Optional<Path> csvPath() {
            return Optional.ofNullable(batch).flatMap(Batch::csv).map(csv -> csv.file().input());
        }

        private static List<String> stamps(BatchFiles files, Optional<Path> input) {
            return Stream.concat(files.all().stream(), input.stream()).map(file -> !Storage.exists(file) ? "none"
                    : Storage.attributes(file).lastModifiedTime() + " " + Storage.attributes(file).size()).toList();
        }

        private Csv csv() {
            return batch().csv().orElseThrow(() -> new Unusable("the batch was opened without its CSV",
                    "'open CSV " + Text.shell(batch.files().results().toString()) + "' opens both"));
        }

        /// Returns a row as it is in the CSV, without edits.
        private Row row(String id) {
            csv(); // fails without a CSV, and reads a changed batch again
            int entry = batch.requireEntry(id.strip(), ""); // the message needs no option's name before it
            return batch.rows(one -> one == entry).next();
        }

        /// Returns the row with this id, because an id may contain commas or be `failed`. If there is none, `failed`
        /// means all failed rows, and other text is a list of ids.
        private List<Row> rows(String word) {
            csv(); // fails without a CSV, and reads a changed batch again
            var index = batch.index();
            var entries = new BitSet();
            if (index.isRow(index.find(word))) entries.set(index.find(word));
            else if (word.equals("failed")) IntStream.range(0, index.rows())
                    .filter(entry -> index.status(entry) == RowStatus.FAILED).forEach(entries::set);
            // -1 keeps an empty id after a last comma, so that it is rejected
            else Stream.of(word.split(",", -1)).forEach(id -> entries.set(batch.requireEntry(id.strip(), "")));
            if (entries.isEmpty()) throw new Unusable("no row has failed");
            var rows = new ArrayList<Row>();
            batch.rows(entries::get).forEachRemaining(rows::add);
            return rows;
        }

        /// Requires a column that may be edited. The id may not, because results and log identify the row by it.
        private void requireInput(String column) {
            var csv = csv();
            if (!csv.columns().contains(column)) throw new Unusable("no column " + Text.quoted(column),
                    Nearest.of(column, csv.columns()).map(near -> "did you mean " + Text.quoted(near) + "?")
                            .orElse("the columns are " + Text.printable(String.join(", ", csv.columns()), 300)));
            if (csv.isId(column)) throw new Unusable("the id of a row cannot be changed");
        }

        /// Proposes values for a parameter of a command. Ids of failed, paused and unknown rows come first.
        Stream<String> values(String label, CommandLine commands) {
            if (label.equals("COMMAND")) return commands.getSubcommands().keySet().stream();
            if (batch == null) return Stream.empty();
            var index = batch.index();
            return switch (label) {
                case "ID" -> IntStream.range(0, index.rows()).boxed().sorted(Comparator.comparing(entry ->
                        !index.status(entry).isOnRetryList())).map(index::id); // Java sorts false before true
                case "ROWS" -> Stream.concat(Stream.of("failed"), values("ID", commands));
                case "COLUMN" -> batch.csv().stream().flatMap(csv -> csv.columns().stream()
                        .filter(column -> !csv.isId(column)));
                case "COLUMN=VALUE" -> values("COLUMN", commands).map(column -> column + "=");
                default -> Stream.empty(); // such as a new file name or a free text
            };
        }

        /// Returns the row's present value in quotes, to complete `set ID COLUMN=`. Returns empty if the words are
        /// something else. Quotes and backslashes are escaped, because [Shell#words] reads the line.
        Optional<String> presentCell(List<String> words, String typed) {
            if (!words.getFirst().equals("set") || words.size() < 3 || !typed.endsWith("=")) return Optional.empty();
            try {
                var cells = edits.apply(row(words.get(1))).inputs();
                return Optional.ofNullable(cells.get(typed.substring(0, typed.length() - 1)))
                        .map(cell -> '"' + cell.replace("\\", "\\\\").replace("\"", "\\\"") + '"');
            } catch (Unusable _) {
                return Optional.empty(); // `set` will report that the row or CSV is missing
            }
        }

        /// Returns the prompt, with the rows that need attention: `results.jsonl (2 failed, 1 unknown) dify> `
        String prompt() {
            if (batch == null) return "dify> ";
            var name = Text.printable(batch.files().results().getFileName().toString(), 40);
            try {
                var index = batch().index();
                var openCounts = RowStatus.counts(of -> of.isOnRetryList() ? index.count(of) : 0, Ansi.OFF::by);
                return name + (openCounts.isEmpty() ? "" : " (" + openCounts + ")") + " dify> ";
            } catch (Unusable _) {
                return name + " (?) dify> "; // the files changed and are unusable; the next command reports why
            }
        }

        /// Describes the open batch: `results.jsonl: 5 rows, 3 succeeded, 2 failed`. Returns empty if no batch is open.
        Optional<String> summary() {
            if (batch == null) return Optional.empty();
            var index = batch.index();
            var counts = index.rows() == 0 ? "" : ", " + RowStatus.counts(index::count, Ansi.OFF::by);
            return Optional.of(Text.printable(batch.files().results().toString(), 200)
                    + ": " + Text.count(index.rows(), "row") + counts
                    + batch.history().stopped().map(why -> "; stopped early: " + Text.printable(why, 200)).orElse(""));
        }

        /// Holds the cells that were changed in the shell, and applies them to the rows that its commands read.
        static final class Edits implements UnaryOperator<Row> {
            final Map<String, Map<String, String>> byId = new LinkedHashMap<>();
            private boolean isSaved = true;

            @Override
            public Row apply(Row row) {
                return row.with(of(row));
            }

            /// Returns the edits of a row. Leaves out edits of columns that the CSV no longer has, because it may have
            /// been saved by another program.
            Map<String, String> of(Row row) {
                var cells = new LinkedHashMap<>(byId.getOrDefault(row.id(), Map.of()));
                cells.keySet().retainAll(row.inputs().keySet());
                return cells;
            }

            /// Returns whether an exit would lose edits. All of them may have been undone without being saved.
            boolean isUnsaved() {
                return !isSaved && !byId.isEmpty();
            }

            /// Stores the new cells of a row. A cell that equals the one in the CSV is not an edit.
            void set(Row row, Map<String, String> cells) {
                var edited = of(row);
                edited.putAll(cells);
                edited.entrySet().removeAll(row.inputs().entrySet());
                if (edited.isEmpty()) byId.remove(row.id());
                else byId.put(row.id(), edited);
                isSaved = false;
            }

            /// Counts the edits: `3 edits in 2 rows`
            String summary() {
                return Text.count(byId.values().stream().mapToLong(Map::size).sum(), "edit")
                        + " in " + Text.count(byId.size(), "row");
            }

            /// Writes the CSV with the edits, in its own encoding and delimiter. A character that the encoding lacks
            /// would become `?`, so it is an error. If writing fails, the old file stays.
            void save(Csv csv, Index index, Path to) {
                if (!csv.file().charset().newEncoder().canEncode(byId.toString()))
                    throw new Unusable(to + ": " + csv.file().charset() + " cannot encode a character of an edit");
                var all = new BitSet();
                all.set(0, index.rows());
                // the fingerprints show whether another program has changed the CSV since it was opened
                AtomicFile.write(to, out -> csv.write(out, csv.with(this).rows(all, index::fingerprint)));
                isSaved = true;
            }
        }
    }

    /// Shows a retry of one row. Prints its nodes and text as they arrive, then its outputs. Names and errors of nodes
    /// are cut, because a server's texts may have any length.
    static final class RunView implements Engine.Watcher {
        private final PrintWriter out;
        private final long startedAt = System.nanoTime();
        private ObjectNode outputs; // null until the run has ended
        private boolean isInText = false; // whether the cursor is behind text that has no line break yet

        RunView(PrintWriter out) {
            this.out = out;
        }

        /// Asks for the events of the stream. A batch does not, because many rows would be mixed.
        @Override
        public boolean isLive() {
            return true;
        }

        @Override
        public void onStreamEvent(StreamEvent.Live event) {
            switch (event) {
                case StreamEvent.NodeBegan(var title, var type) -> printNode(title, type, "…");
                case StreamEvent.NodeEnded(var title, var type, var status, var seconds, var error) ->
                        printNode(title, type, String.format(Locale.ROOT, "%s in %.2f s", Text.printable(status, 40),
                                seconds) + (error.isEmpty() ? "" : ": " + Text.printable(error, 300)));
                case StreamEvent.Chunk(var text) -> Stream.of(text.split("(?<=\n)")).forEach(this::printChunk);
            }
            out.flush();
        }

        /// Prints a part of the text. The part may begin or end in the middle of a line.
        private void printChunk(String part) {
            if (part.isEmpty()) return;
            if (!isInText) out.print("            | "); // below the titles of nodes, which follow their times
            isInText = true;
            out.print(Text.printable(part.replace("\n", ""), Integer.MAX_VALUE));
            if (part.endsWith("\n")) end();
        }

        private void printNode(String title, String type, String text) {
            say(String.format(Locale.ROOT, "  %6.2f s  ", (System.nanoTime() - startedAt) / 1e9)
                    + Text.printable(title, 40)
                    + (type.isEmpty() || type.equals(title) ? "" : " (" + Text.printable(type, 40) + ")") + " " + text);
        }

        /// Keeps the outputs until the row's outcome is known, because a run that ended may still be rejected.
        @Override
        public void onRun(Response.Ran ran) {
            outputs = ran.outputs();
        }

        @Override
        public void onOutcome(Row row, Outcome outcome) {
            end();
            if (outcome.status().isSuccess() && outputs != null)
                new RowView(false, out).print(outputs); // false cuts long values; `show --full` has them
        }

        @Override
        public void say(String sentence) {
            end();
            out.println(Text.printable(sentence, 1000));
            out.flush();
        }

        /// Ends the line if text was being printed.
        @Override
        public void end() {
            if (isInText) out.println();
            isInText = false;
        }
    }

    /// Prints everything known about a row. Cuts long lines and long values unless `full` is set, so that the row fits
    /// on some screens. Names, paths and errors are always cut, because those of a server may have any length.
    record RowView(boolean full, PrintWriter out) {
        private static final int LONGEST_LINE = 300, MAX_LINES = 40; // characters of a line, lines of a value

        /// Prints inputs from the CSV, attempts from the log, and outputs from the results. Leaves out what is missing.
        void print(Batch batch, int entry, ShellSession.Edits edits) throws IOException {
            var index = batch.index();
            out.println("Row " + Text.id(index.id(entry)) + ": " + index.status(entry).word()
                    + batch.csv().map(csv -> ", line " + index.line(entry) + " of "
                            + Text.printable(csv.file().input().toString(), 200)).orElse(""));
            if (batch.csv().isPresent()) printInputs(batch.rows(one -> one == entry).next(), edits);
            try (var ends = new LineOffsets.RowEnds(batch)) {
                var traces = ends.traces(entry);
                out.println(traces.isEmpty() ? "No attempts" : "Attempts");
                traces.forEach(this::printAttempt);
                if (!index.status(entry).isSuccess()) return; // only a success has outputs
                var end = ends.of(entry);
                out.println("Outputs" + (end.edited() ? " (of edited inputs)" : ""));
                print(Json.MAPPER.createObjectNode().setAll(end.outputs()));
            }
        }

        /// Prints the inputs. A value with several lines begins below its name; an empty one has no line at all.
        private void printInputs(Row row, ShellSession.Edits edits) {
            out.println("Inputs");
            edits.apply(row).inputs().forEach((column, cell) -> {
                var name = "  " + Text.printable(column, 40) + (edits.of(row).containsKey(column) ? " (edited):" : ":");
                long lines = cell.lines().count();
                if (lines == 1) printLines(name + " ", cell);
                else {
                    out.println(name);
                    printLines("    ", cell);
                }
            });
        }

        /// Prints an attempt with its outcomes and forms. It has two outcomes if it was unknown or paused at first and
        /// a look-up found the result later.
        private void printAttempt(LineOffsets.RowEnds.Trace trace) {
            var attempt = "  " + Times.local(trace.attempt().t()) + "  " + trace.attempt().mode();
            if (trace.attempt().edited()) attempt += ", edited";
            var ends = trace.all(EndEvent.class);
            if (ends.isEmpty()) attempt += "  unfinished" + run(trace.run());
            out.println(attempt);
            for (var end : ends) out.println(end(trace, end));
            trace.all(FormEvent.class).forEach(form ->
                    out.println("    form " + form.text() + (form.token().isEmpty() ? "" : ", token "
                            + Text.printable(form.token(), 200))));
        }

        /// Formats an outcome as a line:
        /// `    failed, HTTP 400 after 0.32 s, 26 tokens, run f761…: Run failed: the model refused this input`
        private static String end(LineOffsets.RowEnds.Trace trace, EndEvent end) {
            var text = "    " + Text.printable(end.outcome().replace('_', ' '), 40);
            if (end.http() != 0) text += ", HTTP " + end.http();
            text += String.format(Locale.ROOT, " after %.2f s", end.seconds());
            if (end.tokens() != 0) text += ", " + Text.count(end.tokens(), "token");
            // the last response may lack the run that the stream began with
            text += run(end.run().isEmpty() ? trace.run() : end.run());
            // trace.error adds the forms that a paused row waits for
            if (!end.error().isEmpty()) text += ": " + Text.printable(trace.error(end), 500);
            return text;
        }

        private static String run(String run) {
            return run.isEmpty() ? "" : ", run " + Text.id(run);
        }

        /// Prints text as is and any other value as indented JSON.
        void print(JsonNode value) {
            printLines("  ", value.isTextual() ? value.asText() : value.toPrettyString());
        }

        private void printLines(String start, String text) {
            Text.printFirst(text.lines().toList(), full ? Long.MAX_VALUE : MAX_LINES,
                    line -> out.println(start + Text.printable(line, full ? Integer.MAX_VALUE : LONGEST_LINE)),
                    "  %s lines (--full)", out);
        }
    }

    // ── Work ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Holds the options of `run` and `retry`, and turns them into a batch that the engine can run. For picocli, a
    /// group is only a heading of the help here (`validate = false`), and `order` is its place there. Groups of other
    /// classes have the places in between.
    static final class Work {
        @Mixin InputOption input;

        @Option(names = {"-o", "--output"}, required = true, paramLabel = "JSONL",
                description = "Write results here; .log and .retry go next to it.")
        Path output;

        @Mixin DemoOption demo;
        @Mixin Setup setup;
        @ArgGroup(validate = false, order = 1, heading = "%nInput:%n") CsvOptions shape = new CsvOptions();
        @ArgGroup(validate = false, order = 2, heading = "%nRows:%n") RowOptions rows = new RowOptions();
        @ArgGroup(validate = false, order = 5, heading = "%nWorkflow:%n")
        WorkflowOptions workflow = new WorkflowOptions();
        @ArgGroup(validate = false, order = 6, heading = "%nPace:%n") PaceOptions pace = new PaceOptions();
        @ArgGroup(validate = false, order = 7, heading = "%nRetrying:%n") RunOptions retrying = new RunOptions();
        @ArgGroup(validate = false, order = 8, heading = "%nOutput:%n") OutputOptions out = new OutputOptions();

        private Optional<Engine.Watcher> view = Optional.empty();

        /// Sets a watcher that shows the run of a single row as it happens, instead of the progress line.
        void showRun(Engine.Watcher watcher) {
            view = Optional.of(watcher);
        }

        /// Runs the selected rows and returns the exit code. If that is impossible, also reports the reason to a script
        /// that uses `--json` or `--on-finish`, and leaves the message to the caller.
        int start(Batch.Selection asked, boolean isFresh) throws Exception {
            try {
                return openAndRun(asked, isFresh);
            } catch (UncheckedIOException | Unusable problem) {
                var unusable = problem instanceof Unusable known ? known : new Unusable(Text.reason(problem));
                out.report(unusable, setup.out(), setup.err());
                throw unusable;
            }
        }

        /// Opens the files in such an order that an error leaves them unchanged: `--fresh` moves an earlier batch aside
        /// only after the rows and the server were checked.
        private int openAndRun(Batch.Selection asked, boolean isFresh) throws Exception {
            checkOptions(asked);
            var files = BatchFiles.of(rows.shard().map(part -> part.of(output)).orElse(output));
            // a retry needs an earlier session, except of a shard, which has no files if it has no rows
            if (asked.listed() && files.shard().isEmpty()) files.requireStarted();
            files.refuseAsInput(input.csv);
            // a fresh batch does not take over how the earlier one read its input
            var continued = isFresh ? Optional.<BatchFiles>empty() : Optional.of(files);
            try (var csv = shape.open(input.csv, workflow.queryColumn, continued).with(setup.edits)) {
                out.makeFolder(); // now, because a run whose files cannot be saved has been paid for
                try (var dify = setup.connect(demo.start(csv), workflow.workflowId, retrying,
                        pace.concurrency())) {
                    // in the shell, which shows a single run, this would be repeated for each retry
                    if (demo.version != null && view.isEmpty()) dify.err().println("Demo: using a simulated Dify "
                            + Demo.VERSION + " in this process; nothing leaves this machine, nothing is spent.");
                    var fresh = isFresh ? Optional.of(rows.of(asked)) : Optional.<Batch.Selection>empty();
                    try (var writer = open(files, csv, fresh, dify)) {
                        return run(rows.of(asked), dify, writer);
                    }
                }
            }
        }

        /// Opens the batch. If the input has faults, reports all of them at once. If the server does not respond,
        /// reports at least the fault that was found first.
        private BatchWriter open(BatchFiles files, Csv csv, Optional<Batch.Selection> fresh, Connection dify)
                throws Exception {
            try {
                if (fresh.isPresent()) { // checks as if no row had run, while the earlier batch is still in its place
                    var wanted = Batch.ofRows(files, csv).select(fresh.get(), retrying.timeout);
                    var server = dify.greet("; nothing was moved or sent");
                    check(wanted, dify.form(workflow, server, csv), dify.err());
                }
                // With --fresh, the writer reports on `err` that it moved the earlier batch aside. Tests pass a disk
                // that fails instead of FileChannel::force.
                return BatchWriter.open(files, csv, out.noBom, fresh.map(_ -> dify.err()), FileChannel::force);
            } catch (Faulty problem) {
                throw refusal(problem, csv.with(files.shard()), dify);
            }
        }

        /// Returns all faults of the input as one error. If there is only one, its own message is clearer than a list.
        private Unusable refusal(Faulty problem, Csv csv, Connection dify) throws InterruptedException, IOException {
            try {
                var inspection = dify.inspect(workflow, dify.greet("; nothing was sent"), csv);
                boolean isOnly = inspection.faults().size() + inspection.problems().size() == 1;
                if (!isOnly) return refusal(inspection, dify.err());
                var command = inspection.options().isEmpty() ? "" : ": " + setup.again(inspection.options());
                return new Unusable(problem.what(), problem.hint + command);
            } catch (Unusable _) {
                return problem; // without a server, the other faults cannot be found
            }
        }

        /// Rejects options that contradict each other, before any file is opened.
        private void checkOptions(Batch.Selection asked) {
            setup.check(retrying);
            if (asked.isSample() && !asked.isLimited()) // only a seed was given
                throw new Unusable("--seed cannot be used without --sample", "add --sample N");
            if (asked.isSample() && rows.limit != null)
                throw new Unusable("--sample cannot be used with --limit", "leave one of them out");
            if (pace.maxCost != null && workflow.mode == Mode.BLOCKING)
                throw new Unusable("--max-cost cannot be used with --mode blocking: only streams have prices",
                        "leave out --mode");
            if (output.toString().toLowerCase(Locale.ROOT).matches(".*\\.(csv|tsv|xlsx?)"))
                throw new Unusable(output + ": results are JSON lines, not a spreadsheet",
                        "use -o results.jsonl; 'export' then writes a spreadsheet");
        }

        /// Selects rows, asks the server about the app, checks the rows against its form, and runs them. What costs
        /// nothing comes first, so a mistake is found before the server is asked, and a wrong server or app before a
        /// row is sent.
        private int run(Batch.Selection asked, Connection dify, BatchWriter writer) throws Exception {
            var batch = writer.batch();
            var err = dify.err();
            announceShard(batch, asked);
            // the rows of a CSV that was given by mistake would be paid for
            if (!rows.add) batch.refuseOtherFile(input.csv, " --add adds its rows to the batch");
            var wanted = batch.select(asked, retrying.timeout); // a look-up waits no longer than a run may take
            StatusView.notes(batch).forEach(note -> err.println("Note: " + note + "."));
            // even without rows to run, runs of rows that were sent again are looked up if none has appeared (false)
            if (wanted.rows() == 0 && batch.history().resent(false).isEmpty()) {
                writer.finish().ifPresent(stop -> { // writes the retry list, which may be missing or out of date
                    throw new Unusable(stop.exit(), stop.what(), stop.hint());
                });
                err.println("Nothing to do: " + whyNothing(asked, batch.index()) + ".");
                // a tally of nothing needs no pace
                return finish(batch, Optional.empty(), Exit.OK, new Tally(wanted, null, InstantSource.system()));
            }
            // A server may take long to respond, unlike the demo. In the shell, this would be repeated for each retry.
            if (demo.version == null && view.isEmpty() && out.progress != Progress.Style.OFF)
                err.println("Connecting to " + setup.server.baseUrl.getHost() + " …");
            announceResumption(wanted);
            var origin = Origin.of(batch.files());
            var left = "; " + Text.count(wanted.rows(), "row is", "rows are") + " still pending, nothing was sent";
            var server = dify.greet(origin, left);
            var app = dify.identify(origin, server.kind(), retrying.isSure, left);
            var form = dify.form(workflow, server, batch.csv().orElseThrow());
            // the check found no problem, or it would have thrown; this prints its notes
            CheckView.printProblems(check(wanted, form, err), Screen.on(2).map(Screen::width), err);
            var sender = new Sender(dify.client().forApp(server.kind()), form, Optional.ofNullable(out.saveFiles));
            var mode = mode(asked);
            // runs of attempts that perhaps went to another app are found by other rules
            var modes = batch.history().modePolicy(mode, server.kind(), server.version(), app.isAssumed());
            var terms = terms(modes, dify.judge());
            // recorded for `verify`, which otherwise reports a second run of a row as paid twice
            boolean isAgain = asked.force() || asked.rerunChanged() || asked.resendUnknown();
            var options = setup.next().options();
            // the number of bytes on disk shows later whether lines of the results were lost
            writer.record(SessionEvent.of(batch, dify.access().name(), app, server.version(), options, isAgain)
                    .with(Instant.now(), modes.mode(), mode == Mode.AUTO, writer.resultsOnDisk()));
            var watcher = view.orElseGet(() -> new Progress(err, out.progress));
            var engine = new Engine(wanted, terms, writer, Engine.Ports.ofProcess(sender, watcher));
            var stop = engine.runUntilWritten();
            summarize(asked, batch, engine.tally, stop);
            var done = engine.tally.isAllDone() ? Exit.OK : Exit.ROWS_FAILED;
            return finish(batch, stop, stop.map(Stop::exit).orElse(done), engine.tally);
        }

        /// Prints what was done, a forecast for rows that were left out on purpose, and the next command.
        private void summarize(Batch.Selection asked, Batch batch, Tally tally, Optional<Stop> stop) {
            boolean isPart = asked.isLimited() || pace.maxCost != null; // then the rest is of interest
            var forecast = isPart ? Forecast.of(batch) : Optional.<Forecast>empty();
            var next = limited(asked, batch, forecast.flatMap(Forecast::maxCost)).suggestNext(batch);
            new Summary(batch, tally, setup.err(), Ansi.ofErr(setup.env)).print(stop, asked, forecast, next);
        }

        /// Adds limits to the suggested command. After a sample, adds `--max-cost` with the estimated cost. A limit
        /// that was reached would stop the next command at once, so it is replaced by the estimate, or by a
        /// placeholder.
        private NextCall limited(Batch.Selection asked, Batch batch, Optional<String> cost) {
            var next = setup.next();
            if (batch.index().isComplete()) return next;
            var spent = batch.figures().spending();
            if (pace.maxTokens != null && spent.tokens() >= pace.maxTokens) next = next.with("--max-tokens", "N");
            boolean isReached = pace.maxCost != null
                    && spent.paid().values().stream().anyMatch(paid -> paid.compareTo(pace.maxCost) >= 0);
            // a blocking run has no price, so --max-cost is not possible
            boolean isNew = asked.isSample() && pace.maxCost == null && workflow.mode != Mode.BLOCKING;
            if (isReached || isNew && cost.isPresent()) next = next.with("--max-cost", cost.orElse("AMOUNT"));
            return next;
        }

        private static String whyNothing(Batch.Selection asked, Index index) {
            if (index.rows() == 0) return "this shard has no rows"; // a CSV without any row is rejected before
            if (index.isComplete()) return "every row has succeeded";
            boolean isRetryOfAll = asked.listed() && asked.among().isEmpty();
            if (!isRetryOfAll || index.onRetryList().findAny().isPresent()) return "no selected row is pending";
            return "no row has failed; 'run' runs the "
                    + Text.count(index.count(RowStatus.PENDING), "pending row", "pending rows");
        }

        /// Prints the size of a shard: `shard 3 of 8: 1,250 of 10,000 rows`. Lists the ids that belong to other shards,
        /// which are skipped so that all shards can be started with the same arguments.
        private void announceShard(Batch batch, Batch.Selection asked) {
            var shard = batch.files().shard();
            if (shard.isEmpty()) return;
            int count = batch.index().rows();
            setup.err().println("shard " + shard.get().index() + " of " + shard.get().count() + ": "
                    + Text.number(count) + " of " + Text.number(count + batch.index().rowsOfOtherShards()) + " rows");
            var others = Stream.concat(asked.ids().stream(), asked.among().stream()).map(String::strip)
                    .distinct().filter(id -> !shard.get().holds(id)).toList();
            if (!others.isEmpty()) setup.err().println("Note: skipping " + Text.count(others.size(), "id")
                    + " of other shards (" + Text.joinFirst(3, others.stream().map(Text::id)) + ").");
        }

        /// Prints how far an earlier session came: `Resuming: 332 of 800 rows done (8 failed will be retried)`
        private void announceResumption(Batch.Wanted wanted) {
            var batch = wanted.batch();
            boolean isFirst = batch.history().last(SessionEvent.class).isEmpty();
            // if only a part is wanted, the rows that are left out are not done
            if (wanted.asked().isPart() || isFirst || view.isPresent()) return;
            long failed = wanted.count(RowStatus.FAILED);
            setup.err().println("Resuming: " + Text.number(batch.index().rows() - wanted.rows()) + " of "
                    + Text.count(batch.index().rows(), "row") + " done"
                    + (failed == 0 ? "" : " (" + Text.number(failed) + " failed will be retried)"));
        }

        /// Checks every wanted row against the form. If a row cannot run, the command ends before it starts a run.
        private Inspection check(Batch.Wanted wanted, Form form, PrintWriter err) {
            var csv = wanted.batch().csv().orElseThrow();
            var inspector = new Inspection.Inspector(csv, form);
            csv.rows(wanted.entries(), wanted.batch().index()::fingerprint).forEachRemaining(inspector);
            var inspection = inspector.inspection(workflow.allowUnmapped);
            if (inspection.isFine()) return inspection;
            throw refusal(inspection, err);
        }

        /// Prints the problems and returns the error that ends the command. Its hint is a command that solves them all,
        /// unless the user must change rows.
        private Unusable refusal(Inspection inspection, PrintWriter err) {
            CheckView.printProblems(inspection, Screen.on(2).map(Screen::width), err);
            int count = inspection.faults().size() + inspection.problems().size();
            boolean mustFixRows = inspection.problems().stream().anyMatch(problem -> problem.option().isEmpty());
            var hint = mustFixRows ? "fix the rows, or use --no-check to send all cells as text"
                    : "use the options above, or --allow-unmapped to continue";
            if (!inspection.options().isEmpty())
                hint = (mustFixRows ? "fix the rows, then " : "") + setup.again(inspection.options());
            return new Unusable(input.csv + ": " + Text.count(count, "problem") + "; nothing was sent", hint);
        }

        private Engine.Terms terms(ModePolicy modes, Judge judge) {
            // a person who watches a single run in the shell and presses Ctrl-C does not want to wait for its end
            var grace = view.isPresent() ? Duration.ZERO : retrying.grace;
            var limits = new Limits(pace.maxFailures, pace.maxTokens, pace.maxCost, grace, retrying.timeout,
                    retrying.settle);
            return new Engine.Terms(judge, limits, new Pace(pace.concurrency(), pace.wait, pace.rate), modes,
                    new Attempt.UserNames(retrying.user));
        }

        /// Chooses streaming instead of `auto` if prices or a live view are needed, because only a stream provides
        /// them. A sample is for an estimate of the cost.
        private Mode mode(Batch.Selection asked) {
            boolean needsStream = pace.maxCost != null || asked.isSample() || view.isPresent();
            return workflow.mode == Mode.AUTO && needsStream ? Mode.STREAMING : workflow.mode;
        }

        /// Reports the session's outcome for `--json` and `--on-finish`. Scripts rely on the keys and their order.
        private int finish(Batch batch, Optional<Stop> stop, Exit exit, Tally tally) throws InterruptedException {
            var files = batch.files();
            var end = StatusView.json(StatusView.counts(batch.index()::count));
            end.putAll(object("exit_code", exit.code, "reason", stop.map(Stop::what).orElse(null),
                    "seconds", tally.elapsed().toMillis() / 1000.0, "total_tokens", tally.spending().tokens(),
                    "cost", tally.spending().prices(), "files", object("results", files.results().toString(),
                            "log", files.log().toString(), "retry", files.retry().toString()),
                    "forecast", Forecast.json(batch)));
            out.report(end, setup.out(), setup.err());
            return exit.code;
        }

        /// Reports an unusable command line or setting for `--json` and `--on-finish`. Looks for these options among
        /// the typed words, because picocli may have stopped before it read them.
        static void report(Unusable problem, CommandLine line, List<String> words) throws InterruptedException {
            // the `--json` of other commands is not an outcome
            if (!Set.of("run", "retry").contains(line.getCommandName())) return;
            var out = new OutputOptions();
            out.json = words.contains("--json");
            out.onFinish = Env.typedValue("--on-finish", words).orElse(null);
            out.report(problem, line.getOut(), line.getErr());
        }

        static final class RowOptions {
            @Option(names = "--shard", paramLabel = "I/N",
                    description = "Run only shard I of N, in files of its own.")
            String shard;

            @Option(names = "--limit", paramLabel = "N", description = "Run at most N of these rows, in file order.")
            Long limit;

            @Option(names = "--ids", paramLabel = "A,B", split = ",", hideParamSyntax = true,
                    description = "Run only these ids.")
            List<String> ids = List.of();

            @Option(names = "--resend-unknown", description = "Send paused and unknown rows again; may pay twice.")
            boolean resendUnknown;

            @Option(names = "--add", hidden = true, description = "Add this CSV's rows to the batch of another CSV.")
            boolean add;

            Optional<Shard> shard() {
                return Optional.ofNullable(shard).map(Shard::parse);
            }

            /// Adds these options to what the command selects. `--limit` replaces the size of no sample, because both
            /// together are rejected.
            Batch.Selection of(Batch.Selection asked) {
                return new Batch.Selection(asked.listed(), asked.ids(), asked.force(), List.copyOf(ids),
                        limit == null ? asked.limit() : limit, asked.seed(), asked.rerunChanged(),
                        resendUnknown || asked.resendUnknown(), asked.pendingOnly());
            }
        }

        static final class PaceOptions {
            /// A larger number is probably a mistake. Each run needs a connection, and Linux has some 28,000 ports for
            /// connections.
            private static final int MAX_CONCURRENCY = 10_000;

            @Option(names = {"-c", "--concurrency"}, paramLabel = "N",
                    description = "Run N rows at a time (default: 5; 1 with --wait).")
            Long concurrency;

            @Option(names = {"-w", "--wait"}, paramLabel = "SEC",
                    description = "Pause this long after each row; runs one at a time.")
            Duration wait;

            @Option(names = "--rate", paramLabel = "N/s|N/m|N/h",
                    description = "Start at most N runs per second, minute or hour.")
            Pace.Rate rate;

            @Option(names = "--max-failures", paramLabel = "N|N%|off",
                    description = "Stop after N failures, or N%% from 20 rows on; off: never (default: if the "
                            + "first 20 fail alike).")
            Limits.Ceiling maxFailures;

            @Option(names = "--max-tokens", paramLabel = "N", description = "Stop when the batch has used N tokens.")
            Long maxTokens;

            @Option(names = "--max-cost", paramLabel = "AMOUNT",
                    description = "Stop when the batch has cost this much, such as 5 or 0.5; running rows finish. "
                            + "Implies streaming.")
            BigDecimal maxCost;

            /// Returns how many rows may run at a time. The default is that of Dify's own batch page. It leaves half of
            /// the ten connections of a default server to others.
            int concurrency() {
                int slots = wait != null ? 1 : 5;
                if (concurrency != null) slots = (int) Math.min(concurrency, Integer.MAX_VALUE);
                if (slots > MAX_CONCURRENCY)
                    throw new Unusable("-c " + concurrency + ": must be at most " + MAX_CONCURRENCY);
                if (wait != null && slots > 1)
                    throw new Unusable("--wait cannot be used with -c " + slots,
                            "--wait runs one row at a time; leave one of them out");
                return slots;
            }
        }

        static final class OutputOptions {
            @Option(names = "--no-bom", hidden = true, description = "Write results without a byte order mark.")
            boolean noBom;

            @Option(names = "--json", description = "Print a JSON summary when done.")
            boolean json;

            @Option(names = "--on-finish", paramLabel = "COMMAND",
                    description = "Run this when done; stdin is the --json summary.")
            String onFinish;

            @Option(names = "--save-files", paramLabel = "DIR",
                    description = "Download files in the outputs into this folder.")
            Path saveFiles;

            @Option(names = "--progress", paramLabel = "HOW", defaultValue = "auto", hidden = true,
                    description = "Show progress: ${COMPLETION-CANDIDATES} (default: ${DEFAULT-VALUE}).")
            Progress.Style progress;

            void report(Unusable problem, PrintWriter out, PrintWriter err) throws InterruptedException {
                var reason = Text.printable(problem.what(), 1000);
                report(object("exit_code", problem.exit.code, "reason", reason), out, err);
            }

            /// Prints the session's outcome as one line, and passes it to the command of `--on-finish`. That command
            /// does not get `DIFY_API_KEY`, because it could leak it, is killed if this process ends first, and cannot
            /// change the exit code. What it prints goes to `err`, because `out` may be read as JSON.
            void report(Map<String, Object> outcome, PrintWriter out, PrintWriter err) throws InterruptedException {
                // masked here, because what the command gets does not pass through a writer that masks
                var text = Secret.current().mask(Json.text(outcome).replace("\n", ""));
                if (json) out.println(text);
                if (onFinish == null) return;
                out.flush();
                var builder = new ProcessBuilder(Text.command(onFinish)).redirectErrorStream(true);
                builder.environment().remove("DIFY_API_KEY");
                try {
                    var process = new BoundProcess().start(builder);
                    try (var in = process.outputWriter(UTF_8)) {
                        in.write(text + "\n");
                    } catch (IOException _) {
                        // The command has ended before it read its input.
                    }
                    process.inputReader().lines().forEach(err::println);
                    if (process.waitFor() != 0)
                        err.println("Note: --on-finish failed (exit code " + process.exitValue() + ").");
                } catch (IOException problem) {
                    err.println("Note: --on-finish failed (" + Text.reason(problem) + ").");
                }
            }

            /// Runs a command that must not outlive this process. A signal may arrive while the command is being
            /// started, when `process` is not set yet. So the shutdown hook is added first, and it waits for the lock
            /// until the start is complete.
            private static final class BoundProcess {
                private Process process;

                synchronized Process start(ProcessBuilder builder) throws IOException {
                    try {
                        Runtime.getRuntime().addShutdownHook(new Thread(this::kill));
                    } catch (IllegalStateException _) { // a signal is already ending this process
                        throw new IOException("interrupted");
                    }
                    process = builder.start();
                    return process;
                }

                private synchronized void kill() {
                    if (process == null) return; // the command could not be started
                    process.descendants().forEach(ProcessHandle::destroyForcibly); // they may ignore a request to end
                    process.destroyForcibly();
                }
            }

            /// Creates the folder of `--save-files`, and removes what downloads of a killed process left in it.
            void makeFolder() {
                if (saveFiles == null) return;
                try {
                    Files.createDirectories(saveFiles);
                    Temporary.removeAbandoned(saveFiles, Temporary.HIDDEN);
                    AtomicFile.forceFolder(saveFiles); // the new folder must survive a power cut, like its files
                } catch (IOException problem) {
                    throw new Unusable("--save-files " + saveFiles + ": cannot create the folder ("
                            + Text.reason(problem) + ")");
                }
            }
        }
    }

    /// Reads the runs of a workflow, newest first, including those of other users. Keeps them in memory until all are
    /// read, so that an interrupted command does not leave a file.
    static final class AppRuns {
        private static final String NOTHING_WRITTEN = "; nothing was written"; // the end of each error message

        private final Connection dify;
        private final Wanted wanted;
        private final Set<String> variables;
        private final String idColumn;
        private final List<Taken> taken = new ArrayList<>();
        /// Hold the ids of the runs on the pages read so far, and the names of inputs that the form no longer has.
        private final Set<String> listed = new HashSet<>(), former = new TreeSet<>();
        private final Set<Map<String, JsonNode>> inputs = new HashSet<>(); // those of all runs, for --dedupe
        private long uploads = 0, unreadable = 0;

        private record Taken(StoredRun run, Map<String, JsonNode> inputs) {}

        /// Reads the form first, because rows get only inputs that the workflow still has. No cells are checked against
        /// it, so columns, the folder for files, the decimal point and empty texts do not matter here. The id column
        /// gets the first of `id`, `run_id`, `run_run_id` … that is not mapped to a variable, by name or by label.
        AppRuns(Connection dify, Wanted wanted) throws InterruptedException {
            this.dify = dify;
            this.wanted = wanted;
            if (dify.greet(NOTHING_WRITTEN).kind() == AppKind.CHATFLOW)
                throw new Unusable("the key belongs to a chatflow: Dify has no list of its runs over all users");
            var form = dify.exchange().form().orElseThrow(() ->
                    new Unusable(Exit.STOPPED, "the workflow's form is unknown" + NOTHING_WRITTEN,
                            "run the same command again"));
            var reading = new Variable.Reading(Variable.Folders.of(Path.of(""), null), false, true);
            var known = Form.of(form, List.of(), reading).variables();
            variables = known.stream().map(Variable::name).collect(Collectors.toSet());
            idColumn = Stream.iterate("id", name -> "run_" + name).filter(name -> known.stream().noneMatch(variable ->
                    name.equals(variable.name()) || name.equals(variable.label()))).findFirst().orElseThrow();
        }

        /// Reads page after page, and each run on it, because the list has neither inputs nor outputs. A new run on the
        /// server moves the others down, some of them to the next page. Those were read already and are skipped there.
        void read() throws InterruptedException {
            boolean hasMore = true, hasScreen = Screen.on(2).isPresent();
            for (int number = 1; hasMore && taken.size() < wanted.last; number++) {
                var path = wanted.page(number);
                var page = dify.exchange().ask(() -> dify.client().page(path), NOTHING_WRITTEN);
                for (var run : page.path("data")) {
                    var id = run.at("/workflow_run/id").asText("");
                    if (id.isEmpty() || !wanted.includes(run)) continue;
                    if (taken.size() == wanted.last || !listed.add(id)) continue;
                    take(dify.exchange().ask(() -> dify.client().storedRun(id), NOTHING_WRITTEN));
                    if (!hasScreen) continue;
                    dify.err().print(taken.size() + "/" + wanted.last + " runs\r"); // the next line overwrites it
                    dify.err().flush();
                }
                // an empty page ends the list, even if the server claims that there is more
                hasMore = page.path("has_more").asBoolean() && !page.path("data").isEmpty();
            }
            former.removeAll(variables);
            if (!former.isEmpty()) note("inputs that the workflow's form no longer has: "
                    + Text.joinFirst(10, former.stream().map(Text::quoted)));
            if (uploads > 0) note(Text.count(uploads, "run") + " with uploaded files, because their links expire");
            if (unreadable > 0) note(Text.count(unreadable, "run") + " without a readable record");
            if (taken.isEmpty()) throw new Unusable(Exit.ROWS_FAILED, "no run of this app matches" + NOTHING_WRITTEN,
                    "choose other days or another --status; --own includes the runs that difyexec started");
        }

        private void note(String omitted) { // runs or inputs that are missing must not surprise anybody
            dify.err().println("Note: left out " + omitted + ".");
        }

        /// Takes a run, or counts why it cannot be a row. A run without a readable record may have been deleted since
        /// the list was read.
        private void take(Optional<StoredRun> found) {
            if (found.isEmpty()) unreadable++;
            else if (found.get().hasUpload()) uploads++;
            else {
                var sent = found.get().inputs();
                former.addAll(sent.keySet());
                sent.keySet().retainAll(variables);
                if (inputs.add(sent) || !wanted.dedupe) taken.add(new Taken(found.get(), sent));
            }
        }

        /// Writes the rows, and the baseline if succeeded runs were asked for, because only they have outputs.
        /// Otherwise deletes an earlier baseline, because it belongs to other runs. The rows come last, so that they
        /// never appear beside the baseline of other runs.
        void write(Path output, Path baseline, NextCall next) throws IOException {
            boolean hasOutputs = wanted.status == Wanted.Status.SUCCEEDED;
            if (hasOutputs) AtomicFile.write(baseline, this::writeResults);
            else Files.deleteIfExists(baseline);
            AtomicFile.write(output, out -> {
                for (var one : taken) {
                    var row = object(idColumn, one.run().id());
                    row.putAll(one.inputs());
                    out.write(Json.bytes(row));
                    out.write('\n');
                }
            });
            dify.err().println("Wrote " + Text.count(taken.size(), "run") + " to " + output + ".");
            dify.err().println(next.suggestAfterPull(output, idColumn, hasOutputs ? List.of(baseline) : List.of()));
        }

        /// Writes the results that a batch of these rows would have written. An input that was not sent is an empty
        /// cell, because that is how the next batch reads it.
        private void writeResults(OutputStream out) throws IOException {
            var columns = inputs.stream().flatMap(one -> one.keySet().stream()).distinct().toList();
            for (var one : taken) {
                var cells = new LinkedHashMap<>(Map.of(idColumn, one.run().id()));
                for (var name : columns)
                    cells.put(name, TextFile.text(one.inputs().getOrDefault(name, NullNode.instance)));
                var row = new Row(0, 0, one.run().id(), cells); // results contain neither a row's number nor its line
                out.write(Json.bytes(one.run().success(row).json()));
                out.write('\n');
            }
        }

        /// Selects the runs to take.
        static final class Wanted {
            @Option(names = "--last", paramLabel = "N", defaultValue = "100",
                    description = "Write the newest N runs (default: ${DEFAULT-VALUE}).")
            Long last;

            @Option(names = "--since", paramLabel = "DAY",
                    description = "Only runs since this day: 2026-11-01, or 7d for seven days ago.")
            LocalDate since;

            @Option(names = "--until", paramLabel = "DAY", description = "Only runs up to the end of this day.")
            LocalDate until;

            @Option(names = "--status", paramLabel = "STATUS", defaultValue = "succeeded",
                    description = "Only runs with this status: ${COMPLETION-CANDIDATES} (default: ${DEFAULT-VALUE}).")
            Status status;

            @Option(names = "--keyword", paramLabel = "TEXT",
                    description = "Only runs with this text in inputs or outputs (Dify compares 30 characters).")
            String keyword;

            @Option(names = "--own", description = "Also runs that difyexec started.")
            boolean own;

            @Option(names = "--dedupe", description = "Of runs with equal inputs, only the newest.")
            boolean dedupe;

            enum Status {
                SUCCEEDED, FAILED, STOPPED;

                @Override
                public String toString() {
                    return name().toLowerCase(Locale.ROOT);
                }
            }

            /// Returns the path of a page of the list, with days in the time zone of this machine. A page of 100 runs
            /// is the largest that Dify allows.
            String page(int number) {
                var path = new StringBuilder("/workflows/logs?limit=100&page=" + number + "&status=" + status);
                if (keyword != null) path.append("&keyword=").append(DifyClient.encoded(keyword));
                if (since != null) path.append("&created_at__after=").append(start(since));
                if (until != null) path.append("&created_at__before=").append(start(until.plusDays(1)));
                return path.toString();
            }

            private static Instant start(LocalDate day) {
                return day.atStartOfDay(ZoneId.systemDefault()).toInstant();
            }

            /// Returns whether to take a run. Runs of difyexec are rows of a batch already, so `--own` adds them.
            boolean includes(JsonNode run) {
                return own || !Attempt.UserNames.isOurs(run.at("/created_by_end_user/session_id").asText(""));
            }
        }
    }

    // ── Verification ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// Checks a batch against the server's records. It interprets log and results itself and shares no decision with
    /// the engine, so that it can find the engine's mistakes.
    record Verification(Evidence evidence, DifyClient client, boolean isChat, Optional<Pace.Rate> rate) {
        /// Is small, because a batch may be running, and a server with default settings has only ten connections.
        static final int ROWS_AT_ONCE = 4;

        /// Holds an attempt and the session that sent it.
        ///
        /// @param isElsewhere whether a later session used `--same-app`, so that this attempt may have gone to another
        ///     app, and this app need not list it
        record Sent(String id, String user, Event.SessionEvent session, boolean isElsewhere) {
            Sent elsewhere() {
                return new Sent(id, user, session, true);
            }
        }

        /// Holds what the files record about a batch.
        ///
        /// @param attempts by row id
        /// @param runs     by user; only runs that the log contains
        /// @param outcomes by user; an attempt without a known outcome has none
        /// @param results  all lines of each row, by its id; the last line counts
        record Evidence(Map<String, List<Sent>> attempts, Map<String, RunRef> runs, Map<String, String> outcomes,
                Map<String, List<JsonNode>> results) {
            /// Reads the log from beginning to end, because a later event changes what an earlier one means. Then reads
            /// the results. It lists every kind of event, so that a new kind must be considered here.
            static Evidence of(BatchFiles files) throws IOException {
                var read = new Evidence(new LinkedHashMap<>(), new HashMap<>(), new HashMap<>(), new LinkedHashMap<>());
                var session = new AtomicReference<Event.SessionEvent>();
                var ofSession = new ArrayList<String>(); // users of the session's attempts
                var sizeOfResults = new AtomicLong();
                var unreadable = Event.scan(files.log(), (event, _) -> {
                    if (event.results() >= 0) sizeOfResults.set(event.results()); // -1 if the event does not record it
                    switch (event) {
                        case Event.SessionEvent started -> {
                            session.set(started);
                            ofSession.clear();
                            if (started.sameApp())
                                read.attempts.values().forEach(all -> all.replaceAll(Sent::elsewhere));
                        }
                        case Event.AttemptEvent sent -> {
                            ofSession.add(sent.user());
                            // most rows have one attempt, and a batch may have a million rows
                            read.attempts.computeIfAbsent(sent.id(), _ -> new ArrayList<>(1))
                                    .add(new Sent(sent.id(), sent.user(), session.get(), false));
                        }
                        case Event.RunEvent run -> read.runs.put(run.user(), new RunRef(run.run(), run.task()));
                        case Event.EndEvent end -> {
                            read.outcomes.put(end.user(), end.outcome());
                            // the run of a blocking request has no event of its own
                            if (!end.run().isEmpty()) read.runs.putIfAbsent(end.user(), new RunRef(end.run(), ""));
                        }
                        // A success has no event. If a session did not stop early, all its other attempts succeeded. An
                        // event with a user only records that Dify was asked to stop a run.
                        case Event.StopEvent stop -> {
                            if (stop.user().isEmpty() && stop.why().isEmpty())
                                ofSession.forEach(user -> read.outcomes.putIfAbsent(user, "succeeded"));
                        }
                        // The run is no longer paused or unknown. If it failed, another `end` event follows.
                        case Event.HarvestEvent taken -> read.outcomes.remove(taken.user());
                        // These record what the engine did or concluded, which is not evidence.
                        case Event.LookEvent _, Event.ThrottleEvent _, Event.LateEvent _,
                                Event.FormEvent _, Event.MergeEvent _, Event.TornEvent _ -> {}
                    }
                });
                if (read.attempts.isEmpty()) throw new Unusable(files.log() + ": no attempts to verify");
                // Only the results record a success. If lines of them are missing, any attempt without an outcome may
                // have succeeded, and its run is then lost, not open.
                if (files.resultsSize() < sizeOfResults.get()) read.attempts.values().forEach(all ->
                        all.forEach(sent -> read.outcomes.putIfAbsent(sent.user(), "succeeded")));
                unreadable.addAll(Lines.<JsonNode>scan(files.results(), "", Lines.TREE, (line, _) ->
                        read.results.computeIfAbsent(text(line, "id"), _ -> new ArrayList<>(1)).add(line)));
                if (!unreadable.isEmpty()) throw new Unusable(unreadable.getFirst() + ": not a JSON object");
                return read;
            }

            /// Returns all ids, or `sample` random ones. Ids that are only in the results are included, because such a
            /// result has no attempt.
            List<String> ids(Long sample, Long seed) {
                var all = Stream.of(attempts, results).map(Map::keySet).flatMap(Set::stream).distinct()
                        .collect(Collectors.toCollection(ArrayList::new));
                if (sample == null) return all;
                Collections.shuffle(all, seed == null ? new Random() : new Random(seed));
                return all.subList(0, (int) Math.min(all.size(), sample));
            }

            List<Sent> attempts(String id) {
                return attempts.getOrDefault(id, List.of());
            }

            /// Returns the attempt that produced a result, which is the one whose user is in the result's line. Returns
            /// empty if the row has no such attempt.
            Optional<Sent> own(String id, JsonNode line) {
                return attempts(id).stream().filter(sent -> sent.user().equals(text(line, "user"))).findFirst();
            }
        }

        /// Classifies a finding. The report lists the kinds in this order.
        enum Kind implements Named {
            /// The result is what the server has recorded.
            MATCHES,
            /// The server lists runs as soon as they start, and it lists none for this attempt.
            NEVER_STARTED,
            /// The run failed or was stopped.
            FAILED,
            /// The run has not ended according to Dify's record, or it succeeded and the next `run` takes its result.
            OPEN,
            /// An additional run of a row that the user sent again, for example with `retry --force`.
            SENT_AGAIN,
            /// An additional run that succeeded or still may succeed, although nobody asked to send the row again.
            PAID_TWICE,
            /// Two results belong to the same run.
            DUPLICATED,
            /// The result belongs to a run that no attempt of its row started.
            WITHOUT_RUN,
            /// The run succeeded, but its row has no result.
            LOST,
            /// The result is not what the server has recorded.
            DIFFERS,
            /// The server cannot show the run, because it is deleted or was never listed, or the reply is not what was
            /// asked for.
            NOT_VERIFIABLE,
            /// The server did not respond.
            NO_ANSWER;

            /// These should never occur, so the report contains them even with a count of 0.
            static final Set<Kind> WRONG = EnumSet.of(PAID_TWICE, DUPLICATED, WITHOUT_RUN, LOST, DIFFERS);
            /// These are as expected, so the report does not list their rows.
            static final Set<Kind> ONLY_COUNTED = EnumSet.of(MATCHES, NEVER_STARTED, FAILED, OPEN);
        }

        record Finding(Kind kind, String id, String text) {}

        private static String text(JsonNode node, String name) {
            return node.path(name).asText("");
        }

        static void print(Map<Kind, List<Finding>> found, PrintWriter out) {
            for (var kind : Kind.values()) {
                var all = found.getOrDefault(kind, List.of());
                if (!all.isEmpty() || Kind.WRONG.contains(kind))
                    out.println("  %-22s %,9d".formatted(kind.word(), all.size()));
                // 50 of a kind are enough to see a pattern
                if (!Kind.ONLY_COUNTED.contains(kind)) Text.printFirst(all, 50, one -> out.println("    "
                        + Text.id(one.id()) + ", " + Text.printable(one.text(), 200)), "    %s (--json)", out);
            }
        }

        /// Returns the exit code. It is success only if something was confirmed, because another app may have
        /// responded, or all runs may be deleted.
        ///
        /// @param hasResults if false, there is no result to confirm, and a known run is enough
        static Exit exit(Set<Kind> found, boolean hasResults) {
            if (!Collections.disjoint(found, Kind.WRONG)) return Exit.ROWS_FAILED;
            boolean isRunKnown = found.contains(Kind.FAILED) || found.contains(Kind.OPEN);
            boolean isConfirmed = found.contains(Kind.MATCHES) || !hasResults && isRunKnown;
            return isConfirmed && !found.contains(Kind.NO_ANSWER) ? Exit.OK : Exit.STOPPED;
        }

        /// Checks these rows, some of them at a time, and shows on a terminal how far it is.
        Map<Kind, List<Finding>> findings(List<String> ids, PrintWriter err) {
            var screen = Screen.on(2);
            var done = new AtomicInteger();
            return ids.stream().gather(Gatherers.mapConcurrent(ROWS_AT_ONCE, this::row)).peek(_ -> {
                if (done.incrementAndGet() % 20 > 0 || screen.isEmpty()) return; // about once a second is enough
                err.print(done + "/" + ids.size() + " rows\r"); // the next line overwrites it
                err.flush();
            }).flatMap(List::stream).collect(Collectors.groupingBy(Finding::kind, TreeMap::new, Collectors.toList()));
        }

        /// Checks the result of a row first, then all other runs. Any attempt may have such runs, even the one that led
        /// to the result, if a proxy repeated its request.
        private List<Finding> row(String id) {
            var found = new ArrayList<Finding>();
            var lines = evidence.results().getOrDefault(id, List.of());
            var line = lines.isEmpty() ? Json.MAPPER.missingNode() : lines.getLast();
            var own = evidence.own(id, line);
            var ownRuns = own.map(this::runs);
            var result = own.map(sent -> result(sent, line, ownRuns.get()));
            if (!lines.isEmpty()) found.add(result.orElseGet(() -> new Finding(Kind.WITHOUT_RUN, id,
                    "no attempt of this row has " + name(line))));
            if (lines.stream().map(Verification::name).distinct().count() < lines.size())
                found.add(new Finding(Kind.DUPLICATED, id, "two results come from one run"));
            boolean isPaid = result.isPresent() && result.get().kind() != Kind.WITHOUT_RUN;
            for (var sent : evidence.attempts(id)) {
                boolean isOwn = own.isPresent() && own.get() == sent;
                boolean isAsked = sent.session().again() || own.isPresent() && own.get().session().again();
                // the run that led to the result is not asked for again, because `result` has compared it
                var runs = isOwn ? ownRuns.get() : withNamedRun(sent, runs(sent));
                if (runs instanceof DifyClient.Reply.NotGot(var why)) found.add(unseen(sent, why));
                else if (known(runs).isEmpty() && !isOwn) found.add(unlisted(sent));
                for (var run : known(runs)) if (!isOf(line, run)) {
                    var kind = kind(run, evidence.outcomes().getOrDefault(sent.user(), ""), isPaid, isAsked);
                    if (kind != Kind.LOST || lines.isEmpty()) // with a result, the row is already a WITHOUT_RUN
                        found.add(finding(kind, sent, "run " + text(run, "id") + " of " + sent.user()));
                    isPaid |= kind != Kind.FAILED && kind != Kind.NOT_VERIFIABLE;
                }
            }
            return found;
        }

        private static List<JsonNode> known(DifyClient.Reply<List<JsonNode>> runs) {
            return runs instanceof DifyClient.Reply.Got(var all) ? all : List.of();
        }

        /// Returns what a run means that did not produce the row's result.
        ///
        /// @param isPaid  whether the row has a result, or an earlier run of it succeeded or still may succeed
        /// @param isAsked whether the user asked to send rows again in the session of this run or of the result
        private static Kind kind(JsonNode run, String outcome, boolean isPaid, boolean isAsked) {
            var status = status(run);
            if (status == Kind.FAILED || status == Kind.NOT_VERIFIABLE) return status;
            // this run succeeded or still may, so it is paid for again, but the user asked to send the row again
            if (isPaid && isAsked) return Kind.SENT_AGAIN;
            if (isPaid) return Kind.PAID_TWICE;
            // the next `run` looks this attempt up, so its result is not lost
            if (Set.of("", "unknown", "paused", "interrupted").contains(outcome)) return Kind.OPEN;
            return status;
        }

        /// Returns what a run, or a chatflow's message, means for a row without a result. Dify marks a message as
        /// `normal` from the start. If it has no answer, its run is running, was stopped, or was lost when its server
        /// ended, so it shows nothing.
        private static Kind status(JsonNode stored) {
            return switch (text(stored, "status")) {
                case "succeeded", "partial-succeeded" -> Kind.LOST;
                case "normal" -> text(stored, "answer").isEmpty() ? Kind.NOT_VERIFIABLE : Kind.LOST;
                case "running", "scheduled", "paused" -> Kind.OPEN;
                case "failed", "stopped", "error" -> Kind.FAILED;
                default -> Kind.NOT_VERIFIABLE;
            };
        }

        /// Asks for the runs of an attempt's user. Dify lists no runs of a chatflow, so there it asks for the messages
        /// of the user's conversations. An attempt has its own user, so one page of 100 entries, the most that Dify
        /// allows, is always enough. Each list must be whole and contain only entries of this user, otherwise it is an
        /// error, see [DifyClient#list].
        private DifyClient.Reply<List<JsonNode>> runs(Sent sent) {
            var user = DifyClient.encoded(sent.user());
            if (!isChat) return ask(() -> client.list(
                    "/workflows/logs?limit=100&created_by_end_user_session_id=" + user,
                    row -> row.at("/created_by_end_user/session_id").asText().equals(sent.user())
                            && row.at("/workflow_run/id").isTextual())).then(rows ->
                    new DifyClient.Reply.Got<>(rows.stream().map(row -> row.path("workflow_run")).toList()));
            return ask(() -> client.list("/conversations?limit=100&user=" + user, one -> one.path("id").isTextual()))
                    .then(conversations -> messages(user, conversations));
        }

        /// Asks for all messages of these conversations. If the messages of one cannot be read, returns that failure,
        /// because an incomplete list could look like a run that never started.
        private DifyClient.Reply<List<JsonNode>> messages(String user, List<JsonNode> conversations) {
            var all = new ArrayList<JsonNode>();
            for (var conversation : conversations) {
                var id = text(conversation, "id");
                var messages = ask(() -> client.list("/messages?limit=100&user=" + user + "&conversation_id="
                        + DifyClient.encoded(id), message -> id.equals(text(message, "conversation_id"))));
                if (messages instanceof DifyClient.Reply.NotGot) return messages;
                all.addAll(known(messages));
            }
            return new DifyClient.Reply.Got<>(all);
        }

        /// Asks for the details of a run. Checks the id, because Dify 1.9 responds to an unknown one with 200 and
        /// nulls.
        private DifyClient.Reply<JsonNode> detail(String run) {
            return ask(() -> client.fetch("/workflows/run/" + DifyClient.encoded(run))).then(stored ->
                    text(stored, "id").equalsIgnoreCase(run) ? new DifyClient.Reply.Got<>(stored)
                    : new DifyClient.Reply.NotGot<>(Response.Refused.unexpected("Dify returned a different run")));
        }

        /// Sends a request at the pace of `--rate`. Sends it up to four times if a response asks for a pause, as many
        /// times as `run` does by default. Rows are checked in parallel, and all of them wait at one lock, so that they
        /// keep the pace together.
        private <T> DifyClient.Reply<T> ask(Supplier<DifyClient.Reply<T>> request) {
            for (int tries = 1; ; tries++) {
                synchronized (evidence) {
                    rate.ifPresent(limit -> LockSupport.parkNanos(limit.interval().toNanos()));
                }
                var reply = request.get();
                if (tries == 4 || !(reply instanceof DifyClient.Reply.NotGot(var why)) || why.pause().isEmpty())
                    return reply;
                LockSupport.parkNanos(why.pause().get().toNanos());
            }
        }

        /// Adds the run that the log contains if the list lacks it, because Dify 1.9 does not list a stream whose
        /// client has left. In a chatflow, the run replaces the only message, which may contain text of a run that was
        /// stopped. Dify makes up the events of a rejected row, with an id that belongs to no run, so that run is not
        /// asked for.
        private DifyClient.Reply<List<JsonNode>> withNamedRun(Sent sent, DifyClient.Reply<List<JsonNode>> listed) {
            return listed.then(runs -> {
                var run = evidence.runs().getOrDefault(sent.user(), RunRef.NONE);
                // of several messages, it is unclear which one the run would replace
                boolean isListed = runs.size() > 1 || runs.stream().anyMatch(one -> text(one, "id").equals(run.id()));
                if (!run.isNamed() || run.isMadeUp() || isListed) return listed;
                var named = detail(run.id());
                // if the run is gone, the listed ones can still be checked
                if (named instanceof DifyClient.Reply.NotGot && !runs.isEmpty()) return listed;
                return named.then(stored -> new DifyClient.Reply.Got<>(isChat ? List.of(stored)
                        : Stream.concat(runs.stream(), Stream.of(stored)).toList()));
            });
        }

        /// Returns the finding about an attempt without runs. Only if the server lists each run from its start, and
        /// the attempt went to this app, does an empty list show that none was started. Every version lists a
        /// chatflow's conversation from the start of its run.
        private Finding unlisted(Sent sent) {
            boolean isListed = isChat || Release.of(sent.session().server()).listing() == Release.Listing.FROM_START;
            return finding(isListed && !sent.isElsewhere() ? Kind.NEVER_STARTED : Kind.NOT_VERIFIABLE, sent,
                    "no run is known of " + sent.user());
        }

        /// Returns the finding about a failed question. It is `NOT_VERIFIABLE` if asking again is useless, because Dify
        /// (not a proxy) responds that the run is gone, or the reply has status 200 but unusable content. Otherwise, it
        /// is `NO_ANSWER`.
        private static Finding unseen(Sent sent, Response why) {
            boolean isLasting = why instanceof Response.Refused refused
                    && (refused.status() == 200 || refused.status() == 404 && refused.dify());
            return finding(isLasting ? Kind.NOT_VERIFIABLE : Kind.NO_ANSWER, sent, why.why());
        }

        private static Finding finding(Kind kind, Sent sent, String text) {
            return new Finding(kind, sent.id(), text);
        }

        private static String name(JsonNode line) {
            var run = text(line, "workflow_run_id");
            return run.isEmpty() ? "message " + text(line, "message_id") : "run " + run;
        }

        /// Returns whether a result belongs to a run, or to a chatflow's message in the same conversation.
        private static boolean isOf(JsonNode line, JsonNode run) {
            var id = text(run, "id");
            return id.equalsIgnoreCase(text(line, "workflow_run_id")) || id.equals(text(line, "message_id"))
                    && text(run, "conversation_id").equals(text(line, "conversation_id"));
        }

        /// Compares a result with the run whose id it contains, in a chatflow together with its message. The result of
        /// a blocking chatflow has no run id. Its run is then known only if it paused, which its message records, and
        /// the message alone is compared otherwise. If the details of a run are gone, but the list has only other runs
        /// of this user, the result is not from any of them.
        private Finding result(Sent sent, JsonNode line, DifyClient.Reply<List<JsonNode>> listed) {
            var runs = known(listed);
            var other = finding(Kind.WITHOUT_RUN, sent, name(line) + " is not of " + sent.user());
            var message = runs.stream().filter(one -> isChat && isOf(line, one)).findFirst()
                    .orElseGet(Json.MAPPER::missingNode);
            if (isChat && runs.isEmpty()) return finding(Kind.NOT_VERIFIABLE, sent, "no message of " + name(line));
            if (isChat && message.isMissingNode()) return other;
            var run = new StoredMessage(message).pausedRun().map(RunRef::id).orElse(text(line, "workflow_run_id"));
            if (run.isEmpty() && isChat) return compare(sent, line, withMessage(message, message));
            return switch (detail(run)) {
                case DifyClient.Reply.Got<JsonNode>(var stored) when !isBy(sent, stored) -> other;
                case DifyClient.Reply.Got<JsonNode>(var stored) ->
                        compare(sent, line, isChat ? withMessage(stored, message) : stored);
                case DifyClient.Reply.NotGot<JsonNode>(var why) -> {
                    var gone = unseen(sent, why);
                    boolean isOther = !isChat && !runs.isEmpty() && runs.stream().noneMatch(one -> isOf(line, one));
                    yield isOther && gone.kind() == Kind.NOT_VERIFIABLE ? other : gone;
                }
            };
        }

        /// Returns whether this attempt's user started the run. Dify records the user among the inputs. Without this
        /// record, nothing contradicts it.
        private static boolean isBy(Sent sent, JsonNode run) {
            return parsed(run.path("inputs")).path("sys.user_id").asText(sent.user()).equals(sent.user());
        }

        /// Combines the record of a chatflow's run with its message, because only the message contains the text by
        /// which moderation replaced an answer. The run's answer counts if the message may be incomplete, which happens
        /// after a pause (seen on Dify 1.14 to 1.16.1), or on 1.9 if the client has left. In blocking mode the run may
        /// be unknown, and `run` is the message. Its status `normal` then shows nothing and is left out.
        private static JsonNode withMessage(JsonNode run, JsonNode message) {
            var outputs = parsed(run.path("outputs")) instanceof ObjectNode known ? known
                    : Json.MAPPER.createObjectNode();
            boolean isWhole = new StoredMessage(message).pausedRun().isEmpty() && !text(message, "answer").isEmpty();
            if (isWhole || !outputs.has("answer")) outputs.set("answer", message.path("answer"));
            if (outputs.path("files").isEmpty()) outputs.remove("files"); // a result has no empty list of files either
            return Json.MAPPER.createObjectNode().put("status", text(run, "status").replace("normal", ""))
                    .<ObjectNode>set("outputs", outputs).<ObjectNode>set("inputs", message.path("inputs"))
                    .set("query", message.path("query"));
        }

        /// Compares a result with the server's record. A record that is still `running` shows nothing, because Dify may
        /// leave it so forever after a crash.
        private Finding compare(Sent sent, JsonNode line, JsonNode stored) {
            if (status(stored) == Kind.OPEN)
                return finding(Kind.OPEN, sent, name(line) + " is still recorded as " + text(stored, "status"));
            var outputs = parsed(stored.path("outputs")); // a text, if Dify 1.9 has damaged the JSON that it stores
            // an empty answer may be of a run that was stopped or lost, see [#status]
            if (outputs.isTextual() || isChat && text(outputs, "answer").isEmpty())
                return finding(Kind.NOT_VERIFIABLE, sent, "no readable outputs of " + name(line));
            var differences = differences(sent, line, stored);
            return differences.isEmpty() ? finding(Kind.MATCHES, sent, name(line))
                    : finding(Kind.DIFFERS, sent, String.join(", ", differences) + ", " + name(line));
        }

        /// Lists what differs: `status`, `outputs /answer`, `inputs /text` or `inputs /query`. Ignores the sources of
        /// an answer, which Dify does not record with the run, and inputs that it did not record. Three outputs are
        /// enough to see that a result is wrong.
        private static List<String> differences(Sent sent, JsonNode line, JsonNode stored) {
            var found = new ArrayList<String>();
            var choices = sent.session().choices();
            var question = choices.queryColumn().isEmpty() ? "query" : choices.queryColumn();
            var inputs = parsed(stored.path("inputs"));
            var status = text(stored, "status");
            // the result of a blocking chatflow has no status, but is a success
            if (!status.isEmpty() && !status.equals(line.path("workflow_status").asText("succeeded")))
                found.add("status");
            // false, because whitespace that differs is a difference, too
            new JsonDiff(false).of("", comparable(line.path("outputs")), comparable(stored.path("outputs"))).stream()
                    .map(JsonDiff.Difference::pointer).filter(place -> !place.startsWith("/retriever_resources"))
                    .limit(3).forEach(place -> found.add("outputs " + place));
            line.path("inputs").forEachEntry((column, cell) -> {
                var taken = stored.has("query") && column.equals(question) ? stored.path("query")
                        : inputs.path(choices.map().getOrDefault(column, column));
                if (!taken.isMissingNode() && !isSame(cell.asText(), taken)) found.add("inputs /" + column);
            });
            return found;
        }

        /// Returns whether the server's value can come from this cell. A cell is text, but the value that was sent has
        /// a type that depends on the workflow's form, which may have changed since. So each type that the value can
        /// have is tried. An empty cell may become anything, such as a default. Dify drops NUL characters, and stores
        /// an uploaded file as an object.
        private static boolean isSame(String text, JsonNode sent) {
            var cell = Json.wellFormed(text).replace("\0", "");
            var typed = parsed(TextNode.valueOf(cell));
            return cell.isBlank() || cell.equals(sent.asText())
                    || sent.isBoolean() && sent.asBoolean() == cell.strip().matches("(?i)true|yes|1|on")
                    || sent.isNumber() && cell.strip().matches("[+-]?(\\d+\\.?\\d*|\\.\\d+)")
                            && new BigDecimal(cell.strip()).compareTo(sent.decimalValue()) == 0
                    || sent.isContainerNode() && !typed.isContainerNode()
                    || !sent.isTextual() && new JsonDiff(false).of("", typed, sent).isEmpty();
        }

        /// Parses text that contains JSON, because Dify 1.9 stores outputs, and every version inputs, as text. Returns
        /// any other value as is.
        private static JsonNode parsed(JsonNode value) {
            try {
                return value.isTextual() ? Json.MAPPER.readTree(value.asText()) : value;
            } catch (JsonProcessingException _) {
                return value;
            }
        }

        /// Reduces each file to its name and size, because its link changes from response to response. The marker by
        /// which Dify tells files from other objects stays. Unpaired surrogates are replaced, as in the results.
        private static JsonNode comparable(JsonNode outputs) {
            var copy = parsed(TextNode.valueOf(Json.wellFormed(parsed(outputs).toString())));
            copy.findParents("dify_model_identity").forEach(file ->
                    ((ObjectNode) file).retain("filename", "size", "dify_model_identity"));
            return copy;
        }
    }

    // ── Options ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Holds what the command lines of the tool and of the shell have in common: converters, help, error messages and
    /// exit codes.
    static final class CommandLines {
        /// Maps options that people know from other tools to the equivalent here.
        private static final Map<String, String> OF_OTHER_TOOLS = Map.of(
                "--dry-run", "the command 'check' tests everything without starting a run",
                "--quiet", "use --progress off");

        /// Applies the settings that the whole tree of commands shares. Must be called after the subcommands were
        /// added, because picocli hands each setting on when it is set.
        static CommandLine configure(CommandLine line, IDefaultValueProvider defaults, Env env) {
            Stream.concat(Stream.of(line), line.getSubcommands().values().stream())
                    .map(CommandLine::getCommandSpec).forEach(command -> layOut(command, env));
            var sections = new HashMap<>(line.getHelpSectionMap());
            sections.put(CommandLine.Model.UsageMessageSpec.SECTION_KEY_OPTION_LIST, CommandLines::options);
            sections.put(CommandLine.Model.UsageMessageSpec.SECTION_KEY_SYNOPSIS, CommandLines::synopsis);
            sections.put(CommandLine.Model.UsageMessageSpec.SECTION_KEY_FOOTER, help -> footer(help, env));
            var colors = CommandLine.Help.defaultColorScheme(
                    Ansi.of(env).on() ? CommandLine.Help.Ansi.ON : CommandLine.Help.Ansi.OFF);
            var columns = env.get("COLUMNS");
            if (!columns.matches("\\d{2,5}")) line.setUsageHelpAutoWidth(true);
            else line.setUsageHelpWidth(Math.clamp(Integer.parseInt(columns), 60, 120)); // picocli rejects less than 55
            return Converters.register(line)
                    .setDefaultValueProvider(defaults)
                    .setHelpFactory((spec, _) -> new CommandLine.Help(spec, colors))
                    .setHelpSectionMap(sections)
                    .setCaseInsensitiveEnumValuesAllowed(true) // typed in lower case, unlike the constants
                    .setParameterExceptionHandler((problem, _) ->
                            print(unusable(problem, env), problem.getCommandLine()))
                    .setExecutionExceptionHandler(CommandLines::onException)
                    .setExecutionStrategy(parsed -> execute(parsed, env.secret()));
        }

        /// Gives a command its version, `--help` and `--help-all`, and the layout of its help. picocli's own commands
        /// and those of the shell have no Console of their own.
        private static void layOut(CommandSpec command, Env env) {
            command.version(NAME_AND_VERSION);
            if (command.userObject().getClass().getPackageName().equals("picocli")) adopt(command);
            if (command.findOption("--help-all") == null)
                command.addMixin("console", CommandSpec.forAnnotatedObject(new Console(env)));
            var help = command.usageMessage().abbreviateSynopsis(true).sortOptions(false); // in the order of the fields
            if (String.join("", help.footer()).startsWith("  difyexec")) help.footerHeading("%nExamples:%n");
            help.commandListHeading("%nCommands:%n");
            // one blank line separates the first list, which is that of the parameters if there are any
            if (command.positionalParameters().isEmpty()) help.optionListHeading("%n");
            else help.parameterListHeading("%n");
        }

        /// Gives picocli's own commands the wording of this tool, and its `--help` instead of their own.
        private static void adopt(CommandSpec command) {
            List.copyOf(command.options()).forEach(command::remove); // `remove` changes the list itself
            boolean isHelp = command.name().equals("help");
            command.usageMessage().header(new String[0]).synopsisHeading("Usage: ")
                    .description(isHelp ? "Show the help of a command." : "Print a completion script for bash and zsh.")
                    .footer(isHelp ? "  difyexec help run" : "  source <(difyexec generate-completion)");
        }

        /// Adds the required options: `difyexec run [OPTIONS] -i <CSV> -o <JSONL>`. picocli leaves them out when it
        /// abbreviates all options. In the shell, the open batch provides them.
        private static String synopsis(CommandLine.Help help) {
            var synopsis = help.synopsis(help.synopsisHeadingLength());
            if (isInShell(help.commandSpec().commandLine())) return synopsis;
            return synopsis.replace("[OPTIONS]", "[OPTIONS]" + help.commandSpec().options().stream()
                    .filter(OptionSpec::required)
                    .map(option -> " " + option.shortestName() + " <" + option.paramLabel() + ">").collect(joining()));
        }

        /// Returns the examples with the command that starts the tool here. In the shell they have no `-i` and `-o`,
        /// because the batch is open already. The help of the whole tool also shows where its documentation is.
        private static String footer(CommandLine.Help help, Env env) {
            var command = help.commandSpec();
            if (isInShell(command.commandLine()))
                return help.footer().replaceAll(" -[io] \\S+", "").replace("  difyexec ", "  ");
            var examples = help.footer().replace("difyexec ", env.invocation() + " ");
            if (command != command.root()) return examples;
            return examples + env.readme().map(file -> "\nDocumentation: " + file + "\n").orElse("");
        }

        /// Lists the options; `--help-all` adds the hidden ones.
        private static String options(CommandLine.Help help) {
            var parsed = help.commandSpec().commandLine().getParseResult();
            if (parsed == null || !parsed.originalArgs().contains("--help-all")) return help.optionList();
            var options = help.commandSpec().options().stream().filter(option -> option.hidden() && !option.usageHelp())
                    .map(option -> OptionSpec.builder(option).hidden(false).build()).toList();
            if (options.isEmpty()) return help.optionList();
            var layout = help.createDefaultLayout(options, List.of(), help.colorScheme());
            layout.addAllOptions(options, help.parameterLabelRenderer());
            return help.optionList() + help.createHeading("%nRarely used:%n") + layout;
        }

        /// Runs a command and returns its exit code. A PrintWriter hides that output could not be written, so this is
        /// checked at the end, and the command has then failed. picocli passes the cause of an ExecutionException to
        /// [#onException].
        private static int execute(CommandLine.ParseResult parsed, Secret secret) {
            var line = parsed.commandSpec().commandLine();
            checkTyped(parsed.asCommandLineList().getLast());
            try {
                int code = ScopedValue.where(Secret.CURRENT, secret)
                        .call(() -> new CommandLine.RunLast().execute(parsed));
                // `export -` writes to System.out directly
                boolean isLost = line.getOut().checkError() || System.out.checkError();
                if (!isLost || isPipeClosed()) return code;
                throw new CommandLine.ExecutionException(line, "", new Unusable(Exit.STOPPED,
                        "standard output: cannot be written (disk full, or its reader has ended)", ""));
            } catch (OutOfMemoryError _) { // nothing is lost, because the log is on disk
                long megabytes = Runtime.getRuntime().maxMemory() >> 20;
                throw new CommandLine.ExecutionException(line, "", new Unusable(Exit.STOPPED, "out of memory ("
                        + megabytes + " MB)", "set JDK_JAVA_OPTIONS=-Xmx4g to use up to 4 GB"));
            }
        }

        /// Rejects two things that picocli accepts. These are an option that is given twice, and a blank value, which
        /// mostly comes from an unset variable of the caller's shell. `--map` may be repeated, but not for the same
        /// column. A delimiter may be a space, and an empty value that equals the default changes nothing.
        private static void checkTyped(CommandLine line) {
            for (var option : line.getParseResult().matchedOptions()) {
                var typed = option.originalStringValues();
                boolean isRepeated = option.getValue() instanceof Map<?, ?> pairs ? pairs.size() < typed.size()
                        : typed.size() > 1 && !option.isMultiValue();
                boolean isBlank = typed.getLast().isBlank() && option.type() != Character.class
                        && !typed.getLast().equals(option.defaultValue());
                if (isRepeated || isBlank) throw new ParameterException(line, option.longestName() + " "
                        + typed.getLast() + (isRepeated ? ": given more than once" : ": must not be blank"));
            }
        }

        /// Returns whether the reader, such as `head`, has closed the pipe, which is no error. Writes to the descriptor
        /// itself, because a PrintStream hides why a write failed.
        private static boolean isPipeClosed() {
            try {
                new FileOutputStream(FileDescriptor.out).write('\n');
                return false;
            } catch (IOException problem) {
                return Text.reason(problem).toLowerCase(Locale.ROOT).contains("pipe");
            }
        }

        /// Returns a message such as `--timeout abc: not a duration`, or picocli's own, always with a hint.
        static Unusable unusable(ParameterException problem, Env env) {
            var unusable = unmatched(problem).map(CommandLines::unknown)
                    .orElseGet(() -> new Unusable(message(problem, env)));
            var hint = unusable.hint.isEmpty() ? hint(problem, env) : unusable.hint;
            return new Unusable(unusable.what(), hint);
        }

        static int print(Unusable problem, CommandLine line) {
            line.getErr().println("difyexec: " + problem.text());
            return problem.exit.code;
        }

        /// Returns the words that picocli could not assign, or empty. If picocli reports a missing option, a mistyped
        /// word is the likelier reason. That word is recorded in this command line or in one above it.
        private static Optional<CommandLine.UnmatchedArgumentException> unmatched(ParameterException problem) {
            if (problem instanceof CommandLine.UnmatchedArgumentException known) return Optional.of(known);
            if (!(problem instanceof CommandLine.MissingParameterException)) return Optional.empty();
            return Stream.iterate(problem.getCommandLine(), Objects::nonNull, CommandLine::getParent)
                    .filter(line -> !line.getUnmatchedArguments().isEmpty()).findFirst()
                    .map(line -> new CommandLine.UnmatchedArgumentException(line, line.getUnmatchedArguments()));
        }

        /// Returns the message with the option or setting before it, because a converter cannot know whose value it
        /// reads. A rejected value may be a whole file that was pasted, so the message is cut.
        private static String message(ParameterException problem, Env env) {
            var arg = problem.getArgSpec();
            var reason = problem.getCause() instanceof TypeConversionException known ? known.getMessage() : "";
            // picocli splits COLUMN=VARIABLE itself, so no converter of ours has a reason
            if (arg != null && arg.type() == Map.class) reason = "must be " + arg.paramLabel();
            if (arg == null || problem.getValue() == null || reason.isEmpty())
                return Text.printable(problem.getMessage(), 1000);
            // the rejected value came from the setting if that has this value, otherwise from the option
            var variable = new EnvDefaults(env).setting(arg)
                    .filter(setting -> setting.text().equals(problem.getValue())).map(Env.Setting::place);
            var name = arg instanceof OptionSpec option ? option.longestName() + " " : "";
            return Text.printable(variable.orElse(name + problem.getValue()) + ": " + reason, 1000);
        }

        /// Returns where to read more. In the shell, a missing option means that no batch is open, because an open
        /// batch provides -i and -o.
        private static String hint(ParameterException problem, Env env) {
            var line = problem.getCommandLine();
            var name = line.getParent() == null ? "" : " " + line.getCommandName();
            if (!isInShell(line)) return "see " + env.invocation() + name + " --help";
            if (problem instanceof CommandLine.MissingParameterException
                    && problem.getArgSpec() instanceof OptionSpec) return "'open CSV JSONL' opens a batch";
            return "see 'help" + name + "'";
        }

        /// Returns whether a command belongs to the shell, whose tree has the prompt as its name.
        static boolean isInShell(CommandLine line) {
            return !line.getCommandSpec().root().name().equals("difyexec");
        }

        /// Reports an unknown word, with a near one as a hint. Up to two letters may differ, as in `rnu`, for which
        /// picocli would not suggest `run`, because it compares pairs of letters. A word of two letters would be near
        /// to everything, so nothing is suggested.
        private static Unusable unknown(CommandLine.UnmatchedArgumentException problem) {
            var spec = problem.getCommandLine().getCommandSpec();
            var word = problem.getUnmatched().getFirst();
            boolean isOption = word.startsWith("-"), isBeforeCommand = !spec.subcommands().isEmpty();
            var known = isOption ? spec.optionsMap().keySet() : spec.subcommands().keySet();
            var hint = Nearest.of(word, known.stream(), word.length() < 3 ? 0 : 2, 1).stream()
                    .map("did you mean %s?"::formatted).collect(joining());
            if (OF_OTHER_TOOLS.containsKey(word) && spec.findOption("--progress") != null) // that is, run or retry
                hint = OF_OTHER_TOOLS.get(word);
            if (isOption && isBeforeCommand && hint.isEmpty()) hint = "put options after the command";
            if (isOption) return new Unusable("unknown option " + Text.printable(word, 60), hint);
            if (isBeforeCommand) return new Unusable("unknown command " + Text.quoted(word), hint);
            // `run data.csv` probably means `run -i data.csv`
            if (spec.findOption("-i") != null && !problem.getCommandLine().getParseResult().hasMatchedOption("-i"))
                hint = "-i " + Text.shell(Text.printable(word, 60));
            return new Unusable("unexpected argument " + Text.quoted(word), hint);
        }

        /// Prints the message of an exception that ended a command, and returns its exit code. Any other exception is a
        /// bug, for which picocli prints the stack trace and returns 1.
        private static int onException(Exception problem, CommandLine line, CommandLine.ParseResult parsed)
                throws Exception {
            if (problem instanceof InterruptedException) {
                line.getErr().println("Interrupted.");
                return Exit.INTERRUPTED.code;
            }
            if (problem instanceof IOException || problem instanceof UncheckedIOException)
                return print(new Unusable(Text.reason(problem)), line);
            if (!(problem instanceof Unusable unusable)) throw problem;
            return print(unusable, line);
        }

        /// Creates the objects that picocli needs. It gives Setup and Console the environment and the shell's edits,
        /// for which picocli would need constructors without arguments.
        record Factory(Env env, UnaryOperator<Row> edits) implements CommandLine.IFactory {
            @Override
            public <K> K create(Class<K> type) throws Exception {
                if (type == Setup.class) return type.cast(new Setup(env, edits));
                if (type == Console.class) return type.cast(new Console(env));
                return CommandLine.defaultFactory().create(type);
            }
        }

        /// Converts option values. An error message completes `--timeout abc: …`.
        static final class Converters {
            /// Registers converters by the type of an option. So options whose smallest value is 1 are declared as
            /// `Long`, and those whose smallest value is 0 as `int`. A larger number than an `int` can hold means the
            /// same as the largest `int`, because no batch has so many rows.
            static CommandLine register(CommandLine line) {
                return line.registerConverter(Duration.class, Converters::duration)
                        .registerConverter(URI.class, Converters::parseUrl)
                        .registerConverter(Charset.class, Converters::charset)
                        .registerConverter(Character.class, Converters::delimiter)
                        .registerConverter(Long.class, text -> number(text, 1))
                        .registerConverter(int.class, text -> (int) Math.min(Integer.MAX_VALUE, number(text, 0)))
                        .registerConverter(Pace.Rate.class, Converters::rate)
                        .registerConverter(LocalDate.class, Converters::day)
                        .registerConverter(Limits.Ceiling.class, Converters::ceiling)
                        .registerConverter(BigDecimal.class, Converters::amount);
            }

            /// Reads a duration: `90`, `1.5`, `90s`, `2m`, `1h` or `500ms`. A number without a unit is in seconds. With
            /// at most eight digits, no unit can overflow a `long`.
            static Duration duration(String text) {
                var match = Pattern.compile("(\\d{1,8}(?:\\.\\d+)?)\\s*(ms|s|m|h)?").matcher(text.strip());
                if (!match.matches())
                    throw new TypeConversionException("must be a duration such as 90, 1.5, 90s, 2m or 500ms");
                int unit = switch (match.group(2)) {
                    case "ms" -> 1;
                    case "m" -> 60_000;
                    case "h" -> 3_600_000;
                    case null, default -> 1000;
                };
                return Duration.ofMillis(new BigDecimal(match.group(1)).multiply(BigDecimal.valueOf(unit)).longValue());
            }

            /// Reads an http or https URL and removes slashes at its end, because a path will be appended. A query or
            /// fragment cannot be, and a password does not belong there, because the log records the URL.
            static URI parseUrl(String text) {
                var address = text.strip().replaceAll("/+$", "");
                try {
                    var uri = new URI(address);
                    boolean isHttp = uri.getHost() != null && String.valueOf(uri.getScheme()).matches("https?");
                    boolean isPlain = uri.getFragment() == null && uri.getQuery() == null && uri.getUserInfo() == null;
                    if (isHttp && isPlain) return uri;
                } catch (URISyntaxException _) {
                    // rejected below, with a message of this tool
                }
                throw new TypeConversionException("must be a URL such as https://api.dify.ai/v1");
            }

            private static Charset charset(String text) {
                try {
                    return Charset.forName(text.strip());
                } catch (IllegalArgumentException _) {
                    throw new TypeConversionException(
                            "unknown encoding; try UTF-8, Shift_JIS, GB18030 or windows-1252");
                }
            }

            /// Reads a delimiter. A quote or a line break cannot be one, because both have a meaning in every CSV.
            private static char delimiter(String text) {
                if (text.equals("tab") || text.equals("\\t")) return '\t';
                if (text.length() != 1 || "\"\r\n".contains(text))
                    throw new TypeConversionException("must be one character, or \"tab\"");
                return text.charAt(0);
            }

            /// Reads a whole number of at most 15 digits, which a `long` can hold.
            private static long number(String text, long least) {
                if (!text.strip().matches("\\d{1,15}") || Long.parseLong(text.strip()) < least)
                    throw new TypeConversionException("must be a whole number, at least " + least);
                return Long.parseLong(text.strip());
            }

            /// Reads a day. Java reads `7d` as the period `P7d`.
            private static LocalDate day(String text) {
                try {
                    return text.endsWith("d") ? LocalDate.now().minus(Period.parse("P" + text)) : LocalDate.parse(text);
                } catch (DateTimeException _) {
                    throw new TypeConversionException("must be a day such as 2026-11-01, or 7d for seven days ago");
                }
            }

            /// Reads a rate as the interval between two starts.
            static Pace.Rate rate(String text) {
                var match = Pattern.compile("(\\d{1,6}(?:\\.\\d{1,3})?)/([smh])").matcher(text.strip());
                if (!match.matches() || new BigDecimal(match.group(1)).signum() == 0)
                    throw new TypeConversionException("must be a rate such as 10/s, 90/m or 500/h");
                var unit = Duration.parse("PT1" + match.group(2));
                return new Pace.Rate(Duration.ofNanos(BigDecimal.valueOf(unit.toNanos())
                        .divide(new BigDecimal(match.group(1)), RoundingMode.HALF_UP).longValue()));
            }

            /// Reads a number of rows or a percentage. `off` is a number that no batch reaches. A ceiling with a count
            /// ignores its share, and a percentage has no count.
            static Limits.Ceiling ceiling(String text) {
                if (text.strip().equals("off")) return new Limits.Ceiling(Long.MAX_VALUE, 1);
                var match = Pattern.compile("(\\d{1,9})(%?)").matcher(text.strip());
                long number = match.matches() ? Long.parseLong(match.group(1)) : 0;
                if (number < 1 || !match.group(2).isEmpty() && number > 100)
                    throw new TypeConversionException("must be a number of rows (20), a percentage (5%) or off");
                return match.group(2).isEmpty() ? new Limits.Ceiling(number, 1) : new Limits.Ceiling(0, number / 100.0);
            }

            /// Reads an amount of money above zero, in the currency that Dify reports.
            private static BigDecimal amount(String text) {
                if (!text.strip().matches("\\d{1,12}(\\.\\d{1,12})?") || new BigDecimal(text.strip()).signum() == 0)
                    throw new TypeConversionException("must be an amount above zero, such as 5 or 0.5");
                return new BigDecimal(text.strip());
            }
        }
    }

    /// Provides the output of a command, and the command to run next.
    static class Console {
        @Spec(Spec.Target.MIXEE) CommandSpec spec;

        @Option(names = {"-h", "--help", "--help-all"}, usageHelp = true,
                description = "Show this help; --help-all shows every option.")
        boolean help;

        @Option(names = {"-V", "--version"}, versionHelp = true, description = "Show the version.")
        boolean version;

        final Env env;

        Console(Env env) {
            this.env = env;
        }

        PrintWriter out() {
            return spec.commandLine().getOut();
        }

        PrintWriter err() {
            return spec.commandLine().getErr();
        }

        Ansi paint() {
            return Ansi.of(env);
        }

        boolean isInShell() {
            return CommandLines.isInShell(spec.commandLine());
        }

        /// Returns the text of this command line with further options.
        String again(List<String> options) {
            return NextCall.again(spec.commandLine().getParseResult(), isInShell() ? "" : env.invocation(), options);
        }

        NextCall next() {
            return NextCall.of(spec.commandLine().getParseResult(), isInShell() ? "" : env.invocation());
        }
    }

    /// Suggests the next command, as text that can be pasted into a shell. Keeps the options of the present command,
    /// except those that only the present command needs.
    ///
    /// @param start   how the tool was started; empty in the shell, where the batch is already open
    /// @param command present command, such as `run`
    /// @param options all but `-i` and `-o`, each with its value: `--user=me`
    record NextCall(String start, String command, Optional<Path> input, Path output, List<String> options) {
        /// Lists options for one command only. Repeating them would start over, leave rows out, or write files again.
        /// `-i` and `-o` are kept apart from the other options.
        private static final Set<String> ONE_OFF = Set.of("--fresh", "--add", "--pending-only", "--on-finish",
                "--same-app", "--force", "--resend-unknown", "--rerun-changed", "--limit", "--sample", "--seed",
                "--ids", "--json", "--html", "--show", "--failed", "--raw", "--partial", "-i", "-o");
        /// Lists options that need not be repeated, because the log records them.
        private static final Set<String> IN_LOG = Set.of("--id-column", "--encoding", "--delimiter", "--sheet",
                "--header-row", "--decimal", "--query-column", "--map", "--var");
        /// Lists the options that determine the server and the app. They are repeated only if they were typed.
        private static final Set<String> SERVER_OPTIONS = Set.of("--base-url", "--env-file", "--app-id");
        /// Lists the options without which a batch would run differently. Leaves out the server, because the log may
        /// come from somebody else and must not make the tool send the key to another server.
        private static final Set<String> SESSION_OPTIONS = Set.of("--demo", "--workflow-id", "--mode", "--allow-empty",
                "--allow-unmapped", "--no-check", "--user", "--files", "--save-files");

        /// Takes the options that were typed. `check` has no results file, so it suggests `results.jsonl`.
        static NextCall of(CommandLine.ParseResult parsed, String start) {
            var spec = parsed.commandSpec();
            Function<String, Optional<Path>> file = name -> Optional.ofNullable(spec.findOption(name))
                    .map(option -> option.<Path>getValue());
            return new NextCall(start, spec.name(), file.apply("-i"), file.apply("-o").orElse(Path.of("results.jsonl")),
                    typedOptions(parsed).filter(option -> !ONE_OFF.contains(name(option))).toList());
        }

        /// Returns the text of this command line with further options. They replace those with the same name, except
        /// `--map`, of which each maps another column.
        static String again(CommandLine.ParseResult parsed, String start, List<String> options) {
            var replaced = options.stream().map(option -> option.split(" ")[0]).filter(name -> !name.equals("--map"))
                    .collect(Collectors.toSet());
            var kept = typedOptions(parsed).filter(option -> !replaced.contains(name(option))).map(NextCall::format);
            var ids = parsed.matchedPositionals().stream().flatMap(one -> one.stringValues().stream()).map(Text::shell);
            return Stream.of(Stream.of(start, parsed.commandSpec().name()), kept, ids, options.stream())
                    .flatMap(words -> words).collect(joining(" ")).strip();
        }

        /// Returns the typed options in their order. An option without a value, or with the one that it has when it is
        /// typed alone, such as `--demo`, is only its name. picocli lists a repeated option once for each value.
        private static Stream<String> typedOptions(CommandLine.ParseResult parsed) {
            return parsed.matchedOptions().stream().distinct().flatMap(option -> option.originalStringValues().stream()
                    .map(value -> option.shortestName() + (option.arity().max() == 0
                            || value.equals(option.fallbackValue()) ? "" : "=" + value)));
        }

        private static String name(String option) {
            return option.split("=", 2)[0];
        }

        /// Formats an option: `--user 'my name'`, but `--demo=chatflow`, because the value of `--demo` is optional, and
        /// `--user=-me`, because a word that begins with `-` would be taken for an option.
        private static String format(String option) {
            var name = name(option);
            boolean isWhole = name.equals(option) || name.equals("--demo") || option.startsWith(name + "=-");
            return isWhole ? Text.shell(option) : name + " " + Text.shell(option.substring(name.length() + 1));
        }

        /// Suggests how to continue a batch. Pending rows run first, then failed ones are retried. If every failed row
        /// would fail again in the same way, suggests to look at them in the shell. After a partial merge, missing
        /// shards come before both, because `run` and `retry` are rejected until those are merged, too.
        String suggestNext(Batch batch) {
            var index = batch.index();
            var history = batch.history();
            var next = continuing(history);
            var running = history.liveSession();
            if (running.isPresent()) return "Process " + running.get().process().id() + " is working on this batch.";
            if (index.isComplete()) return next.suggestAfterSuccess(batch);
            boolean isPending = index.count(RowStatus.PENDING) > 0, hasFailed = index.count(RowStatus.FAILED) > 0;
            var note = isPending || hasFailed ? ""
                    : "Unresolved rows are looked up on the next run; --resend-unknown sends them again.\n";
            var others = history.last(MergeEvent.class).map(MergeEvent::missingShards).orElse(List.of());
            boolean isPermanent = !isPending && hasFailed && index.onRetryList().allMatch(entry ->
                    index.status(entry) == RowStatus.FAILED && history.isPermanent(entry));
            if (!others.isEmpty()) return note + suggestShard(others, history);
            if (!isPermanent) return note + next.line(isPending ? "run" : "retry");
            if (start.isEmpty()) return "Next: failures" + report(); // the shell is open already
            return next.only(name -> SERVER_OPTIONS.contains(name) // `shell` has all but one of these options
                    || SESSION_OPTIONS.contains(name) && !name.equals("--save-files")).line("shell") + report();
        }

        /// Suggests the next shard or a merge, otherwise the export of the results, which needs none of the options.
        /// The text is "All rows succeeded" only if the CSV shows that no row is missing, and no row was sent twice
        /// because its run appeared late. After a command about one shard's files, nothing is known about the other
        /// shards, so nothing is suggested.
        private String suggestAfterSuccess(Batch batch) {
            if (batch.csv().isEmpty()) return "All recorded rows succeeded. Pass -i "
                    + input.map(Path::toString).map(Text::shell).orElse("CSV") + " to include rows not yet run.";
            boolean hasOthers = batch.index().size() > batch.index().rows(); // rows that are not in this CSV
            var done = "All rows succeeded.";
            if (batch.figures().count(LateEvent.class) > 0) done = "Every row has a result.";
            else if (hasOthers) done = "All rows of "
                    + Text.printable(batch.csv().get().file().input().toString(), 200) + " succeeded.";
            if (command.equals("export")) return done;
            var shard = batch.files().shard();
            // export refuses to leave out the other rows unless --force is given
            if (shard.isEmpty()) return done + "\n" + with(hasOthers ? List.of("out.csv", "--force")
                    : List.of("out.csv")).line("export") + report();
            if (options.stream().noneMatch(option -> name(option).equals("--shard"))) return done;
            int count = shard.get().count();
            var all = IntStream.rangeClosed(1, count).mapToObj(number -> new Shard(number, count)).toList();
            return done + "\n" + suggestShard(all, batch.history());
        }

        private String report() {
            var status = start.isEmpty() ? "status" : start + " status -o " + Text.shell(output.toString());
            return "\n  or: " + status + " --html report.html";
        }

        /// Suggests the run of a shard that has no files here. If all shards have files, suggests the merge.
        String suggestShard(Collection<Shard> others, History known) {
            var away = others.stream().filter(shard -> !BatchFiles.of(shard.of(output)).isStarted()).findFirst();
            if (away.isEmpty()) return continuing(known).with(List.of()).line("merge"); // needs no option
            return "No files for shard " + away.get() + " here. Copy them over if it ran on another machine.\n"
                    + continuing(known).with("--shard", away.get().toString()).line("run");
        }

        /// Returns a call that continues the batch. Leaves out options that the log records. Adds the input and the
        /// options of the last session, except in the shell, which has them, and after `run` or `retry`, where they
        /// were typed.
        private NextCall continuing(History history) {
            var next = only(name -> !IN_LOG.contains(name));
            if (start.isEmpty() || Set.of("run", "retry").contains(command)) return next;
            var options = history.last(SessionEvent.class).map(SessionEvent::typed).orElse(List.of()).stream()
                    .filter(option -> option != null && SESSION_OPTIONS.contains(name(option))); // null if edited
            return new NextCall(start, command, input.or(() -> history.input(output)), output,
                    Stream.concat(next.options.stream(), options).toList());
        }

        private NextCall only(Predicate<String> wanted) {
            return with(options.stream().filter(option -> wanted.test(name(option))).toList());
        }

        /// Sets an option and replaces its earlier value.
        NextCall with(String option, String value) {
            var others = options.stream().filter(other -> !name(other).equals(option));
            return with(Stream.concat(others, Stream.of(option + "=" + value)).toList());
        }

        private NextCall with(List<String> options) {
            return new NextCall(start, command, input, output, options);
        }

        /// Suggests the run of a CSV that was checked. Returns empty in the shell, or if the results file exists.
        Optional<String> suggestRun(Optional<Shard> part) {
            return start.isEmpty() || Files.exists(part.map(shard -> shard.of(output)).orElse(output))
                    ? Optional.empty() : Optional.of(line("run"));
        }

        /// Suggests a run of the rows of `pull`, then a comparison with the baseline if there is one. Only the options
        /// about the server apply to both.
        String suggestAfterPull(Path rows, String idColumn, List<Path> baseline) {
            var results = rows.resolveSibling("new.jsonl");
            var run = new NextCall(start, command, Optional.of(rows), results, options)
                    .only(SERVER_OPTIONS::contains);
            if (!idColumn.equals("id")) run = run.with("--id-column", idColumn);
            return run.line("run") + baseline.stream().map(file -> "\n  then: " + start + " compare "
                    + Text.shell(file.toString()) + " " + Text.shell(results.toString())).collect(joining());
        }

        /// Formats the suggestion: `Next: difyexec retry -i data.csv -o results.jsonl`, in the shell `Next: retry`.
        private String line(String command) {
            var files = "-i " + Text.shell(input.map(Path::toString).orElse("CSV")) + " -o "
                    + Text.shell(output.toString());
            var words = start.isEmpty() ? Stream.of("Next:", command) : Stream.of("Next:", start, command, files);
            return Stream.concat(words, options.stream().map(NextCall::format)).collect(joining(" "));
        }
    }

    /// Holds the options of every command that calls Dify, and the shell's edits of rows.
    static final class Setup extends Console {
        @ArgGroup(validate = false, order = 4, heading = "%nServer:%n") ServerOptions server = new ServerOptions();

        final UnaryOperator<Row> edits;

        Setup(Env env, UnaryOperator<Row> edits) {
            super(env);
            this.edits = edits;
        }

        /// Rejects settings that no converter can reject, before the server is asked. A zero is a valid delay, but not
        /// a valid limit.
        void check(RunOptions retrying) {
            if (retrying.timeout.isZero()) throw new Unusable("--timeout 0: must be greater than zero");
            if (retrying.settle.isZero()) throw new Unusable("--settle 0: must be greater than zero");
            if (server.envFile != null && !Files.isRegularFile(server.envFile))
                throw new Unusable("--env-file " + server.envFile + ": no such file");
            // Dify allows 255 characters, and each attempt adds its own number to the name
            if (!Attempt.UserNames.isUsable(retrying.user))
                throw new Unusable("--user " + Text.shell(Text.printable(retrying.user, 20))
                        + ": must have at most 200 characters and no control characters");
        }

        /// Returns the settings of `run` for a command that starts no run and has no options for them. Such a command
        /// rejects what `run` would reject, and repeats a request as often as `run` would. The environment sets them.
        RunOptions retrying() {
            var retrying = new RunOptions();
            CommandLines.Converters.register(new CommandLine(retrying).setErr(err()))
                    .setDefaultValueProvider(new EnvDefaults(env)).parseArgs();
            check(retrying);
            return retrying;
        }

        /// Connects to the demo, or to the configured server. The demo is in this process, so it needs neither a proxy
        /// nor a certificate. If the command has `--demo`, the error for a missing key suggests it.
        ///
        /// @param version id of the published workflow to run; empty for the newest
        /// @param runs    the largest number of runs at a time, which share the memory for responses
        Connection connect(Optional<Demo> demo, String version, RunOptions retrying, int runs) {
            var access = demo.map(own -> new Access(own.baseUrl(), own.key(), "", Demo.knownVersion(version),
                    Optional.empty(), Optional.empty()))
                    .orElseGet(() -> server.access(env, version, spec.findOption("--demo") != null, err()));
            var backoff = new Backoff(retrying.initialDelay, retrying.maxDelay, retrying.maxRetries);
            return new Connection(access, DifyClient.of(access, retrying.timeout, runs),
                    new Judge(backoff, retrying.failedRuns, access), demo, err());
        }

        static final class ServerOptions {
            @Option(names = "--base-url", paramLabel = "URL", defaultValue = "https://api.dify.ai/v1",
                    description = "Call the API at this URL (env: DIFY_API_BASE_URL; default: ${DEFAULT-VALUE}).")
            URI baseUrl;

            @Option(names = "--env-file", paramLabel = "FILE", description = "Read settings from this file, not .env.")
            Path envFile;

            @Option(names = "--app-id", paramLabel = "ID", defaultValue = "", hidden = true,
                    description = "Name the app of a key for several apps (env: DIFY_APP_ID).")
            String appId;

            /// Reads the access to the server. The key is never an option, because everyone on the machine can see a
            /// command line. A `.env` line that cannot be read is an error even if its setting is not used here,
            /// because the default in its place could be the wrong server.
            Access access(Env env, String workflowId, boolean hasDemo, PrintWriter err) {
                var key = key(env, hasDemo);
                EnvDefaults.VARIABLES.values().forEach(env::needed);
                if (baseUrl.getScheme().equals("http") && !Env.isLoopback(baseUrl.getHost()))
                    err.println("Warning: " + baseUrl + " is not https; the API key is sent unencrypted.");
                env.unknownNames().forEach(name -> err.println("Warning: " + name + " is not a setting of difyexec."));
                if (!appId.strip().matches("[A-Za-z0-9-]*"))
                    throw new Unusable("--app-id (DIFY_APP_ID) contains a character other than letters, digits and -",
                            "copy the id from the app's URL in Dify");
                return new Access(baseUrl, key, id("--app-id (DIFY_APP_ID)", appId),
                        id("--workflow-id (DIFY_WORKFLOW_ID)", workflowId), env.proxy(baseUrl),
                        env.needed("DIFY_CA_FILE"));
            }

            /// Rejects a key instead of an id, because the log records ids and is not secret.
            private static String id(String option, String text) {
                if (!text.strip().matches("(?s)(app|sk)-.*")) return text.strip();
                throw new Unusable(option + " is an API key, not an id", "put the key into DIFY_API_KEY");
            }

            private String key(Env env, boolean hasDemo) {
                var setting = env.needed("DIFY_API_KEY");
                if (setting.isEmpty())
                    throw new Unusable(env.missing("DIFY_API_KEY"), (hasDemo ? "try --demo, or " : "")
                            + "put these lines into .env (in Dify: API Access, API Key):\nDIFY_API_BASE_URL=" + baseUrl
                            + "\nDIFY_API_KEY=" + Env.PLACEHOLDER);
                var key = setting.get().text().strip();
                // A header can carry only ASCII. JSON escapes quotes and backslashes, so a key with them would not be
                // masked there.
                if (key.matches("[!-~&&[^\"\\\\]]+")) return key;
                throw new Unusable("DIFY_API_KEY" + setting.get().source() + " contains a character that no key has "
                        + "(such as a space, a quote or a non-ASCII letter)", "copy it again");
            }
        }
    }

    /// Holds the options about the workflow and what it gets. `check` has them too, so that it checks what `run` sends.
    static final class WorkflowOptions {
        @Option(names = "--workflow-id", paramLabel = "ID", defaultValue = "",
                description = "Pin a published version (env: DIFY_WORKFLOW_ID).")
        String workflowId;

        @Option(names = "--mode", paramLabel = "MODE", defaultValue = "auto",
                description = "Use ${COMPLETION-CANDIDATES} mode (default: ${DEFAULT-VALUE}).")
        Mode mode;

        @Option(names = "--query-column", paramLabel = "NAME", defaultValue = "",
                description = "Take questions from this column (default: query).")
        String queryColumn;

        @Option(names = "--allow-unmapped", hidden = true,
                description = "Continue when columns and variables do not match.")
        boolean allowUnmapped;

        @Option(names = "--allow-empty", hidden = true, description = "Send rows that lack a required text.")
        boolean allowEmpty;

        @Option(names = "--files", paramLabel = "DIR", hidden = true,
                description = "Also upload @path cells from this folder.")
        Path files;

        @Option(names = "--no-check", hidden = true,
                description = "Skip the workflow's form and send every cell as text.")
        boolean noCheck;
    }

    static class SameAppOption { // `verify` needs it without the options of a run
        @Option(names = "--same-app", hidden = true,
                description = "Continue with another key of the same app although none of the batch's runs is found.")
        boolean isSure;
    }

    @Command(name = "difyexec") // a hint about an unusable setting contains this name
    static final class RunOptions extends SameAppOption {
        @Option(names = "--timeout", paramLabel = "SEC", defaultValue = "300",
                description = "Limit each run (env: TIMEOUT; default: ${DEFAULT-VALUE}).")
        Duration timeout;

        @Option(names = "--max-retries", paramLabel = "N", defaultValue = "3",
                description = "Retry up to N times (env: MAX_RETRIES; default: ${DEFAULT-VALUE}).")
        int maxRetries;

        @Option(names = "--user", paramLabel = "NAME", defaultValue = "difyexec", hidden = true,
                description = "Start each attempt's user id in Dify with this name (default: ${DEFAULT-VALUE}).")
        String user;

        @Option(names = "--initial-retry-delay", paramLabel = "SEC", defaultValue = "1", hidden = true,
                description = "Wait this long before the first retry, then twice as long each time "
                        + "(env: INITIAL_RETRY_DELAY; default: ${DEFAULT-VALUE}).")
        Duration initialDelay;

        @Option(names = "--max-retry-delay", paramLabel = "SEC", defaultValue = "60", hidden = true,
                description = "Wait at most this long before a retry "
                        + "(env: MAX_RETRY_DELAY; default: ${DEFAULT-VALUE}).")
        Duration maxDelay;

        @Option(names = "--retry-failed-runs", paramLabel = "WHEN", defaultValue = "transient", hidden = true,
                description = "Retry failed runs: ${COMPLETION-CANDIDATES} (default: ${DEFAULT-VALUE}).")
        Judge.RetryRuns failedRuns;

        @Option(names = "--settle", paramLabel = "SEC", defaultValue = "30", hidden = true,
                description = "Look this long for an interrupted run before sending its row again "
                        + "(default: ${DEFAULT-VALUE}).")
        Duration settle;

        @Option(names = "--grace", paramLabel = "SEC", defaultValue = "20", hidden = true,
                description = "After Ctrl-C, let running rows finish for this long (default: ${DEFAULT-VALUE}).")
        Duration grace;
    }

    /// Connects a command to Dify until the command ends. Warnings go to `err`.
    record Connection(Access access, DifyClient client, Judge judge, Optional<Demo> demo, PrintWriter err)
            implements AutoCloseable {

        /// Asks for version and app. If the server refuses, the command ends.
        ///
        /// @param left completes the message with what that means for the rows, such as `; nothing was sent`
        ServerInfo greet(String left) throws InterruptedException {
            return exchange().server(left);
        }

        /// Requires the server that the batch started with, then asks for its version and app.
        ServerInfo greet(Origin origin, String left) throws InterruptedException, IOException {
            origin.requireServer(access.name());
            return greet(left);
        }

        /// Requires the app of every session that sent rows. It is the same app if its key has the recorded hash, or if
        /// the server has one of the recorded runs under this key, which may be new. Another app would not have the
        /// batch's runs, so rows would be sent and paid for again.
        ///
        /// @param isSure whether the user vouches for the app with `--same-app`
        AppClaim identify(Origin origin, AppKind kind, boolean isSure, String left)
                throws InterruptedException, IOException {
            boolean isAssumed = false, isSame = !origin.sessions().isEmpty();
            var exchange = new FirstExchange(client.forApp(kind), judge, err);
            for (var session : origin.sessions()) {
                if (access.hasAppHash(session.appHash())) continue;
                isSame = false;
                var runs = origin.runs(session);
                if (!runs.mayHaveStarted() || exchange.knowsAny(runs.newest(), left)) continue;
                if (!isSure) throw origin.otherApp(runs, session.appId().equals(access.appId()));
                isAssumed = true;
            }
            // keeps the recorded hash, because a new one would have a new salt and look like another app's
            return new AppClaim(isSame ? origin.sessions().getLast().appHash() : access.appHash(), access.appId(),
                    isAssumed);
        }

        FirstExchange exchange() {
            return new FirstExchange(client, judge, err);
        }

        /// Reads all rows and reports everything that is wrong with the input. If a fault prevents reading the rest,
        /// reads again with an option that the user did not choose, so that the report is complete. A fault that no
        /// option repairs is thrown.
        Inspection inspect(WorkflowOptions options, ServerInfo server, Csv csv)
                throws InterruptedException, IOException {
            try {
                var inspector = new Inspection.Inspector(csv, form(options, server, csv));
                var index = new Index();
                csv.survey(inspector, row -> index.addRow(row, csv.file()), inspector::add);
                return inspector.inspection(options.allowUnmapped);
            } catch (Faulty fault) {
                return inspect(options, server, csv.after(fault));
            }
        }

        /// Returns the workflow's form. With `--no-check`, or if the form is unknown, every cell is text.
        Form form(WorkflowOptions options, ServerInfo server, Csv csv) throws InterruptedException {
            var form = options.noCheck ? Form.ofText() : exchange().form()
                    .map(parameters -> Form.of(parameters, csv.columns(),
                            new Variable.Reading(Variable.Folders.of(csv.file().input(), options.files),
                                    csv.shape().hasDecimalComma(), options.allowEmpty))).orElse(Form.ofText());
            return server.kind() == AppKind.CHATFLOW ? form.withQuestion(csv.shape().queryColumn(), csv.columns())
                    : form;
        }

        @Override
        public void close() {
            client.close();
            demo.ifPresent(Demo::close);
        }
    }

    static final class InputOption {
        @Option(names = {"-i", "--input"}, required = true, paramLabel = "CSV",
                description = "Read rows from this file; - is standard input.")
        Path csv;
    }

    static final class ResultsOption {
        @Option(names = {"-o", "--output"}, required = true, paramLabel = "JSONL",
                description = "Read this results file.")
        Path file;
    }

    static final class DemoOption {
        @Option(names = "--demo", arity = "0..1", fallbackValue = Demo.VERSION, paramLabel = "chatflow",
                description = "Use a simulated Dify: no key, no network, no cost.")
        String version;

        /// Starts the simulated Dify for `--demo`, or returns empty. Its form has each column except the chatflow's
        /// question, so that every CSV fits. `--demo` without a value means a workflow on the version that it
        /// simulates; `--workflow-id` may select another published version.
        Optional<Demo> start(Csv csv) throws IOException {
            if (version == null) return Optional.empty();
            var question = version.equals(Demo.CHATFLOW) ? csv.shape().queryColumn() : "";
            var columns = csv.columns().stream().filter(name -> !name.equals(question)).toList();
            return Optional.of(new Demo(version, columns));
        }
    }

    /// Holds the options about the input. Help shows those that are hidden only with `--help-all`, because few users
    /// need them.
    static final class CsvOptions {
        @Option(names = "--id-column", paramLabel = "NAME", defaultValue = "",
                description = "Take ids from this column; # numbers the rows.")
        String idColumn;

        /// Maps columns to variables. `--map COLUMN=` drops an earlier mapping. The shell joins several values with
        /// NUL, because a value may contain any other character.
        @Option(names = "--map", paramLabel = "COLUMN=VARIABLE", split = "\0", hideParamSyntax = true,
                description = "Map a column to a variable; repeatable.")
        Map<String, String> map = Map.of();

        /// Sets constants. `--var VARIABLE` without a value drops an earlier one.
        @Option(names = "--var", paramLabel = "VARIABLE=VALUE", split = "\0", hideParamSyntax = true, hidden = true,
                mapFallbackValue = Option.NULL_VALUE,
                description = "Set a variable to this value in every row; repeatable.")
        Map<String, String> vars = Map.of();

        @Option(names = "--sheet", paramLabel = "NAME", defaultValue = "", hidden = true,
                description = "Read this worksheet (default: the first with data).")
        String sheet;

        @Option(names = "--header-row", paramLabel = "N", hidden = true,
                description = "Read the column names from this line (default: the first with text).")
        Long headerRow;

        @Option(names = "--decimal", paramLabel = "C", hidden = true,
                description = "Read decimals of number variables with a comma or a point (default: \".\").")
        Character decimal;

        @Option(names = "--encoding", paramLabel = "NAME",
                description = "Read the CSV in this encoding (default: UTF-8).")
        Charset encoding;

        @Option(names = "--delimiter", paramLabel = "C", hidden = true,
                description = "Use this field delimiter; \"tab\" for a tab (default: detected).")
        Character delimiter;

        /// Opens the input for a command that sends no row, so it needs no question and has no `--query-column`.
        Csv open(Path input, BatchFiles files) throws IOException {
            files.refuseAsInput(input);
            return open(input, "", Optional.of(files));
        }

        /// Opens the input. Choices that were not typed come from earlier sessions, so that a batch is read in one way.
        /// An id column other than before would make every row look new and be paid for again.
        Csv open(Path input, String queryColumn, Optional<BatchFiles> files) {
            var mapped = new LinkedHashMap<>(map);
            mapped.replaceAll((_, variable) -> variable.isEmpty() ? null : variable); // null drops an earlier mapping
            var typed = new Csv.Shape(idColumn, encoding, delimiter, sheet, headerRow, decimal, queryColumn, mapped,
                    vars);
            if (decimal != null && decimal != ',' && decimal != '.')
                throw new Unusable("--decimal " + Text.shell(decimal.toString()) + ": must be \",\" or \".\"");
            // without a batch, there are no earlier choices, so their log, here `input`, appears in no message
            var before = files.map(BatchFiles::choices)
                    .orElse(new BatchFiles.Choices(Csv.Shape.DEFAULT, input, Optional.empty()));
            var csv = Csv.open(input, typed.after(before.shape(), before.log()));
            try {
                csv.requireSameIds(before.shape().idColumn(), before.log());
                if (sheet.isEmpty() || !csv.file().sheet().isEmpty()) return csv;
                throw new Unusable("--sheet " + Text.shell(sheet) + ": " + input + " is not an Excel workbook");
            } catch (Unusable problem) {
                csv.close();
                throw problem;
            }
        }
    }

    /// Takes defaults of options from environment variables and `.env`. Does not read a setting whose option was typed,
    /// nor any for help, because an unusable setting must prevent neither.
    record EnvDefaults(Env env, String... typed) implements IDefaultValueProvider {
        static final Map<String, String> VARIABLES = Map.of(
                "--base-url", "DIFY_API_BASE_URL", "--app-id", "DIFY_APP_ID", "--workflow-id", "DIFY_WORKFLOW_ID",
                "--timeout", "TIMEOUT", "--max-retries", "MAX_RETRIES", "--initial-retry-delay", "INITIAL_RETRY_DELAY",
                "--max-retry-delay", "MAX_RETRY_DELAY");

        /// Returns null for an unreadable setting, which [Env#needed] rejects once the command needs it.
        @Override
        public String defaultValue(ArgSpec arg) {
            return setting(arg).filter(setting -> setting.fault().isEmpty()).map(Env.Setting::text).orElse(null);
        }

        Optional<Env.Setting> setting(ArgSpec arg) {
            if (!(arg instanceof OptionSpec option)) return Optional.empty();
            var unread = new HashSet<>(List.of(option.names()));
            unread.addAll(List.of("-h", "--help", "--help-all"));
            if (Stream.of(typed).map(word -> word.split("=", 2)[0]).anyMatch(unread::contains)) return Optional.empty();
            return Optional.ofNullable(VARIABLES.get(option.longestName())).flatMap(env::setting);
        }
    }

    // ── Views ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Prints progress on stderr. A terminal shows one line that is redrawn five times a second, which looks
    /// continuous. Elsewhere, a plain line is added every ten seconds, so that the log of a night has only some
    /// thousand lines. All public methods are synchronized, because the engine's thread and the one that watches the
    /// disk use them.
    static final class Progress implements Engine.Watcher {
        private static final Duration REDRAW_EVERY = Duration.ofMillis(200), PRINT_EVERY = Duration.ofSeconds(10);
        /// `MAX_CAUSES` limits how many causes are printed as they occur. The summary groups all of them.
        /// `SHORTEST_CAUSE` is in characters, because less of a cause would not be understood.
        private static final int MAX_CAUSES = 20, SHORTEST_CAUSE = 12;
        private static final String BETWEEN = " · ";

        private final PrintWriter err;
        private final boolean off;
        private final Optional<Screen> screen;
        private long nextLineDue = System.nanoTime();
        private int drawn = 0; // how many characters of the line are on the screen
        private final Set<String> causes = new HashSet<>();

        Progress(PrintWriter err, Style style) {
            this.err = err;
            this.off = style == Style.OFF;
            this.screen = style == Style.AUTO ? Screen.on(2) : Optional.empty(); // 2 is stderr
            if (screen.isEmpty()) nextLineDue += PRINT_EVERY.toNanos();
        }

        @Override
        public synchronized void watch(Tally tally) {
            if (off || System.nanoTime() < nextLineDue) return;
            nextLineDue = System.nanoTime() + (screen.isPresent() ? REDRAW_EVERY : PRINT_EVERY).toNanos();
            screen.map(Screen::width).ifPresentOrElse(
                    width -> redraw(line(tally, width - 3), width), // a terminal adds ^C at Ctrl-C, which must not wrap
                    () -> err.println(line(tally, Integer.MAX_VALUE)));
            err.flush();
        }

        /// Prints a sentence above the line that is redrawn, even with `--progress off`, because it is a warning or a
        /// change that the user must know.
        @Override
        public synchronized void say(String sentence) {
            end();
            err.println(Text.printable(sentence, 1000));
            err.flush();
        }

        /// Prints each cause of failure once, with the first row it affected, above the line that is redrawn.
        @Override
        public synchronized void onOutcome(Row row, Outcome outcome) {
            if (off || outcome.status() != RowStatus.FAILED || causes.size() == MAX_CAUSES
                    || !causes.add(Text.cause(outcome.text()))) return;
            say("Failed: " + Text.cause(outcome.text()) + " (first: " + Text.id(row.id()) + ")");
        }

        /// Clears the progress line, so that other lines can be printed.
        @Override
        public synchronized void end() {
            if (drawn > 0) redraw("", screen.orElseThrow().width());
            err.flush();
        }

        /// Draws the line over the previous one, which fills several lines if the terminal has become narrower. In ANSI
        /// codes, `A` moves the cursor up, `J` clears the rest of the screen, and `K` the rest of the line.
        private void redraw(String line, int width) {
            int above = Math.max(0, drawn - 1) / width;
            err.print((above == 0 ? "\r" : "\r\033[" + above + "A\033[J") + line + "\033[K");
            drawn = line.length();
        }

        /// Formats the progress, with as many items as fit into `columns` characters. The most important come first,
        /// because the last ones are dropped. If there is room, the most frequent cause is added to the failed rows.
        /// Rows with an outcome of an earlier session (`others`) count as done, because the line shows the batch.
        ///
        /// `12/20 (60 %) · 3.2/s · 2 failed · 4.1 s · 2.6 s left · 5 running · 684 tokens`
        static String line(Tally tally, int columns) {
            long done = tally.others() + tally.done(), asked = tally.others() + tally.asked;
            var activity = tally.activity();
            var failed = some(tally.countOfAll(RowStatus.FAILED), "failed");
            var items = Stream.of(done + "/" + asked + " (" + 100 * done / Math.max(1, asked) + " %)",
                    activity.rest().orElse(""),
                    tally.rate() == 0 ? "" : String.format(Locale.ROOT, "%.1f/s", tally.rate()),
                    failed,
                    some(tally.countOfAll(RowStatus.UNKNOWN), "unknown"),
                    some(tally.countOfAll(RowStatus.PAUSED), "paused"),
                    Text.seconds(tally.elapsed()),
                    tally.timeLeft().map(left -> Text.seconds(left) + " left").orElse(""),
                    some(activity.lookUps(), activity.lookUps() == 1 ? "row is being looked up"
                            : "rows are being looked up"),
                    activity.running() + " running" + limit(tally.pace),
                    some(activity.waiting(), "waiting"),
                    some(tally.spending().tokens(), "tokens"),
                    Summary.cost(tally.spending().times(1))) // `times` also rounds to three digits
                    .filter(item -> !item.isEmpty()).collect(Collectors.toCollection(ArrayList::new));
            while (items.size() > 1 && String.join(BETWEEN, items).length() > columns) items.removeLast();
            int room = columns - String.join(BETWEEN, items).length() - " ()".length(), at = items.indexOf(failed);
            // `at` is -1 if no row has failed, or if there was no room for that item
            if (at > 0 && room >= SHORTEST_CAUSE) tally.causes().entrySet().stream().max(Map.Entry.comparingByValue())
                    .ifPresent(cause -> items.set(at, failed + " (" + Text.cutAtWord(cause.getKey(), room) + ")"));
            return Text.cut(String.join(BETWEEN, items), columns);
        }

        /// Returns ` (limit 3)` while fewer rows may run at a time than the user asked for, otherwise an empty text.
        private static String limit(Pace pace) {
            return pace.slots() < pace.ceiling ? " (limit " + pace.slots() + ")" : "";
        }

        private static String some(long count, String what) {
            return count == 0 ? "" : count + " " + what;
        }

        enum Style {
            AUTO, PLAIN, OFF;

            @Override
            public String toString() {
                return name().toLowerCase(Locale.ROOT);
            }
        }
    }

    /// Prints the outcome of a session, with counts, times, cost, failures by cause, and the next command.
    record Summary(Batch batch, Tally tally, PrintWriter err, Ansi paint) {
        /// Prints everything in the order in which people ask. Why the session stopped comes first, what to type next
        /// is near the end, and a row that may have been paid twice is last, where it is not overlooked.
        ///
        /// @param forecast for rows that were left out on purpose
        /// @param next     the next command, with its reason
        void print(Optional<Stop> stop, Batch.Selection asked, Optional<Forecast> forecast, String next) {
            err.println();
            stop.ifPresent(reason -> err.println(reason.text()));
            var counts = RowStatus.counts(tally::countOfAll, paint::by); // such as 18 succeeded, 1 failed
            long open = tally.asked - tally.done();
            if (open > 0) counts = joinKnown(counts, paint.by(RowStatus.PENDING, open + " pending"));
            err.println((counts.isEmpty() ? "nothing done" : counts) + " in " + Text.seconds(tally.elapsed())
                    + String.format(Locale.ROOT, " (%.1f rows/s)",
                            tally.done() * 1000.0 / Math.max(1, tally.elapsed().toMillis())));
            figures(stop.isPresent()).forEach(figure -> err.println("  " + figure));
            asked.seed().ifPresent(seed -> err.println("  random sample; --seed " + seed
                    + " chooses the same rows in a new batch"));
            forecast.ifPresent(rest -> err.println("Remaining " + rest.text()));
            if (forecast.isPresent() && asked.isLimited() && !asked.isSample())
                err.println("Note: the first rows may not be typical; --sample N chooses rows at random.");
            long counted = Stream.of(RowStatus.values()).filter(RowStatus::isOnRetryList)
                    .mapToLong(tally::countOfAll).sum();
            // the causes below then include rows that this session left alone
            if (batch.index().onRetryList().count() > counted) err.println("  In the whole batch:");
            Cause.print(batch, err, paint);
            err.println(next);
            long late = tally.count(LateEvent.class);
            if (late > 0) err.println("Warning: " + Text.count(late,
                    "run appeared after its row was", "runs appeared after their rows were")
                    + " sent again and may have been paid twice; see \"late\" in " + batch.files().log() + ".");
            err.flush();
        }

        /// Returns the lines about runs, latency, tokens and retries, without those whose figure is zero. The cost is
        /// that of this session's own runs, because looked-up runs of earlier sessions have no price.
        ///
        /// @param early whether the session stopped early, so that runs may still be active on the server
        private List<String> figures(boolean early) {
            long stopped = early ? tally.stopped() : 0;
            long open = early ? batch.history().inFlight() : 0;
            var figures = new ArrayList<String>();
            if (stopped > 0) figures.add("asked Dify to stop " + Text.count(stopped, "run"));
            if (open > 0) figures.add(Text.count(open, "run") + " may still be active; the next run looks "
                    + (open == 1 ? "it" : "them") + " up");
            var latencies = latencies(tally);
            if (!latencies.isEmpty()) figures.add("latency (s): " + latencies);
            long tokens = tally.spending().tokens();
            if (tokens > 0) figures.add("tokens: " + joinKnown(Long.toString(tokens), cost(tally.ownSpending)));
            long recovered = tally.count(HarvestEvent.class), throttled = tally.count(ThrottleEvent.class);
            if (tally.retries() > 0) figures.add(Text.count(tally.retries(), "retry", "retries"));
            if (recovered > 0) figures.add(Text.count(recovered, "result") + " recovered without running again");
            if (throttled > 0)
                figures.add("throttled " + Text.count(throttled, "time") + "; concurrency " + tally.pace.span());
            if (!tally.missingFiles().isEmpty()) figures.add(StatusView.missing(batch));
            return figures;
        }

        /// Joins the figures that are not empty: `31000 tokens, 0.49 USD`
        private static String joinKnown(String... figures) {
            return Stream.of(figures).filter(figure -> !figure.isEmpty()).collect(joining(", "));
        }

        /// Formats the cost: `0.49 USD (no price for 3 runs)`. The text is empty if no run has a price. A currency has
        /// three letters, and a server's longer text is cut.
        static String cost(Usage.Spending spent) {
            return cost(spent.prices()) + (spent.prices().isEmpty() || spent.unpriced() == 0 ? ""
                    : " (no price for " + Text.count(spent.unpriced(), "run") + ")");
        }

        /// Formats latencies in seconds: `p50 1.20, p90 2.05, p99 4.10, max 9.00`
        static String latencies(Figures figures) {
            return figures.latencies().entrySet().stream()
                    .map(named -> String.format(Locale.ROOT, "%s %.2f", named.getKey(), named.getValue()))
                    .collect(joining(", "));
        }

        static String cost(Map<String, BigDecimal> prices) {
            return prices.entrySet().stream()
                    .map(price -> price.getValue().toPlainString() + " " + Text.printable(price.getKey(), 8))
                    .collect(joining(", "));
        }
    }

    /// Estimates what the pending rows of a batch will take, from the rows that have finished. Chance decided which
    /// rows those are, so each figure has a 90 % interval, unless too few rows have finished.
    ///
    /// @param concurrency how many rows ran at a time; 0 if that is not known
    /// @param spent what the batch has cost so far, by currency
    /// @param isStream whether the last session used streaming mode, because Dify reports no price in blocking mode
    record Forecast(long rows, double concurrency, Bootstrap.Interval seconds, Bootstrap.Interval tokens,
            SortedMap<String, Bootstrap.Interval> cost, Usage.Spending spent, boolean isStream) {
        /// The level of the intervals. A forecast needs less certainty than a comparison, whose level is 0.95.
        private static final double LEVEL = 0.9;
        /// With fewer rows than `FEWEST_ROWS`, a range would be far too narrow. `MAX_VALUES` limits the values to draw
        /// from, see [#mean].
        private static final int FEWEST_ROWS = 5, MAX_VALUES = 1_000;

        /// Returns the forecast, or empty if no row is pending or none has finished. Failed rows count as finished, and
        /// their retries come on top, because nobody can know how many there will be.
        static Optional<Forecast> of(Batch batch) {
            var index = batch.index();
            var history = batch.history();
            var figures = batch.figures();
            var spent = figures.spending();
            long rest = index.count(RowStatus.PENDING);
            var finished = IntStream.range(0, index.size()).filter(entry -> figures.millis(entry).isPresent()
                    && (index.status(entry).isSuccess() || index.status(entry) == RowStatus.FAILED)).boxed()
                    .collect(Collectors.toCollection(ArrayList::new));
            if (rest == 0 || finished.isEmpty()) return Optional.empty();
            Collections.shuffle(finished, new Random(1)); // rows of a sorted file that are alike must not form a group
            var seconds = mean(finished, entry -> figures.millis(entry).getAsLong() / 1000.0);
            double concurrency = figures.concurrency(seconds.estimate()); // 0 hides the time, which is infinite
            var cost = new TreeMap<String, Bootstrap.Interval>();
            var paid = spent.paid();
            // a run that used tokens but has no price would make the estimated cost too low
            var priced = finished.stream().filter(entry -> spent.unpriced() == 0 || history.tokens(entry) == 0
                    || paid.keySet().stream().anyMatch(currency -> history.cost(entry, currency) > 0)).toList();
            if (!priced.isEmpty()) for (var currency : paid.keySet())
                cost.put(currency, times(mean(priced, entry -> history.cost(entry, currency)), rest));
            boolean isStream = history.last(SessionEvent.class)
                    .filter(session -> session.mode() == Mode.STREAMING).isPresent();
            return Optional.of(new Forecast(rest, concurrency, times(seconds, rest / concurrency),
                    times(mean(finished, history::tokens), rest), cost, spent, isStream));
        }

        /// Estimates the mean of a value. Beyond `MAX_VALUES` rows it resamples the means of groups of rows instead of
        /// single rows, so a forecast from a million rows takes as long as one from a thousand. Without a range, low
        /// and high are NaN.
        private static Bootstrap.Interval mean(List<Integer> entries, ToDoubleFunction<Integer> value) {
            int rows = entries.size();
            var groups = new double[Math.min(rows, MAX_VALUES)];
            double mean = 0;
            for (int i = 0; i < rows; i++) {
                int group = i % groups.length, size = (rows - group - 1) / groups.length + 1;
                mean += value.applyAsDouble(entries.get(i)) / rows;
                groups[group] += value.applyAsDouble(entries.get(i)) / size;
            }
            if (rows < FEWEST_ROWS) return new Bootstrap.Interval(Double.NaN, mean, Double.NaN);
            var interval = Bootstrap.ofMean(groups, LEVEL);
            return new Bootstrap.Interval(interval.low(), mean, interval.high());
        }

        private static Bootstrap.Interval times(Bootstrap.Interval one, double factor) {
            return new Bootstrap.Interval(one.low() * factor, one.estimate() * factor, one.high() * factor);
        }

        /// Formats the forecast: `9,980 rows: 2 h 5 min to 2 h 40 min at -c 10, 1.9 to 2.2 million tokens, 38 to 46
        /// USD`. Notes in brackets say what a figure lacks.
        String text() {
            var figures = new ArrayList<String>();
            if (concurrency > 0) figures.add(range(seconds, (time, _) -> Text.seconds(Duration.ofMillis(
                    Math.round(time * 1000)))) + " at -c " + Math.max(1, Math.round(concurrency)));
            // one unit for both bounds; without a range, `high` is NaN, and this is false
            boolean inMillions = Math.max(tokens.estimate(), tokens.high()) >= 1e6;
            if (inMillions) figures.add(range(times(tokens, 1e-6), Forecast::figure) + " million tokens");
            else if (tokens.estimate() > 0) figures.add(range(tokens, Forecast::figure) + " tokens");
            cost.forEach((currency, amount) ->
                    figures.add(range(amount, Forecast::figure) + " " + Text.printable(currency, 8)));
            var notes = new ArrayList<String>();
            if (!cost.isEmpty() && spent.unpriced() > 0)
                notes.add("no price for " + Text.count(spent.unpriced(), "run"));
            if (Double.isNaN(tokens.low())) notes.add("too few rows for a range");
            if (cost.isEmpty() && tokens.estimate() > 0 && !isStream) notes.add("--mode streaming shows prices");
            return Text.number(rows) + (rows == 1 ? " row: " : " rows: ") + String.join(", ", figures)
                    + (notes.isEmpty() ? "" : " (" + String.join("; ", notes) + ")");
        }

        /// Formats a range. Its bounds are rounded outwards, so that rounding does not make it narrower.
        private static String range(Bootstrap.Interval figure, BiFunction<Double, RoundingMode, String> text) {
            if (Double.isNaN(figure.low())) return text.apply(figure.estimate(), RoundingMode.HALF_UP);
            var low = text.apply(figure.low(), RoundingMode.FLOOR);
            var high = text.apply(figure.high(), RoundingMode.CEILING);
            return low.equals(high) ? low : low + " to " + high;
        }

        /// Formats a figure with two digits, because the estimate is not more exact than that.
        private static String figure(double number, RoundingMode rounding) {
            var rounded = twoDigits(new BigDecimal(number), rounding);
            return String.format(Locale.ROOT, "%,." + Math.max(0, rounded.scale()) + "f", rounded);
        }

        /// Rounds to two digits. Rounds to nine first, so that the error of a sum such as 0.1 + 0.2 is not rounded up.
        private static BigDecimal twoDigits(BigDecimal number, RoundingMode rounding) {
            return number.round(new MathContext(9)).round(new MathContext(2, rounding));
        }

        /// Returns the upper bound of the whole batch's cost, for `--max-cost`. Returns empty if there is no bound, or
        /// several currencies, because `--max-cost` limits each.
        Optional<String> maxCost() {
            if (cost.size() != 1 || Double.isNaN(cost.firstEntry().getValue().high())) return Optional.empty();
            var most = spent.paid().get(cost.firstKey()).add(new BigDecimal(cost.firstEntry().getValue().high()));
            return Optional.of(twoDigits(most, RoundingMode.CEILING).stripTrailingZeros().toPlainString());
        }

        /// Returns null if no row is pending or none has finished.
        static Map<String, Object> json(Batch batch) {
            return of(batch).map(forecast -> {
                var cost = new LinkedHashMap<String, Object>();
                forecast.cost.forEach((currency, amount) -> cost.put(currency, json(amount)));
                return object("rows", forecast.rows, "seconds", json(forecast.seconds),
                        "tokens", json(forecast.tokens), "cost", cost);
            }).orElse(null);
        }

        private static Map<String, Object> json(Bootstrap.Interval figure) {
            return object("low", rounded(figure.low()), "mean", rounded(figure.estimate()),
                    "high", rounded(figure.high()));
        }

        /// Rounds to six digits, because a double has more than the estimate supports. JSON has no NaN, so an unknown
        /// number is null.
        private static BigDecimal rounded(double number) {
            return Double.isFinite(number) ? new BigDecimal(number).round(new MathContext(6))
                    .stripTrailingZeros() : null;
        }
    }

    /// Prints the columns and problems that a check found.
    static final class CheckView {
        private static final int MAX_PROBLEMS = 20; // they fill a screen, and --json lists all of them

        /// Lists the columns that reach the workflow. A note lists the others. Without a form, all columns reach it.
        /// The other cells take 44 of the terminal's columns, and an example gets 24. The two names share the rest,
        /// with 14 to 60 columns each. Without a terminal, 108 columns give each name 20.
        static void print(Inspection inspection, ServerInfo server, Optional<Integer> width, PrintWriter out) {
            out.println("App " + Text.quoted(server.app()) + " on Dify " + Text.printable(server.version(), 40) + ", "
                    + Text.count(inspection.rows(), "row"));
            int terminal = width.orElse(108), name = Math.clamp((terminal - 68) / 2, 14, 60);
            int example = Math.max(0, terminal - 44 - 2 * name);
            printLine(name, out, "column", "variable", "type", "required", "filled", "longest",
                    Text.cut("example", example));
            boolean hasForm = inspection.columns().stream().anyMatch(column -> !column.variable().isEmpty());
            for (var column : inspection.columns())
                if (!hasForm || !column.variable().isEmpty())
                    printLine(name, out, Text.printable(column.column(), name - 1),
                            Text.printable(column.variable(), name - 1), Text.printable(column.type(), 11),
                            column.required() ? "yes" : "", column.filled(), column.longest(),
                            Text.cut(column.example(), example));
            printProblems(inspection, width, out);
            if (inspection.isFine()) out.println("No problems found.");
            out.flush();
        }

        /// Prints a line of the table. `name` is the width of both names.
        private static void printLine(int name, PrintWriter out, Object... cells) {
            out.println(("  %-" + name + "s %-" + name + "s %-12s %-8s %7s %7s  %s").formatted(cells).stripTrailing());
        }

        /// Prints notes and faults, then the first problems and how many more there are, in lines of at most `width`
        /// characters.
        static void printProblems(Inspection inspection, Optional<Integer> width, PrintWriter out) {
            UnaryOperator<String> lines = text -> WordUtils.wrap(text, width.orElse(Integer.MAX_VALUE));
            inspection.notes().forEach(note -> out.println(lines.apply("Note: " + Text.printable(note, 500))));
            inspection.faults().forEach(fault -> out.println(lines.apply("Problem: " + Text.printable(fault, 500))));
            Text.printFirst(inspection.problems(), MAX_PROBLEMS, problem -> out.println(lines.apply(problem.text())),
                    "%s problems (check --json lists all)", out);
        }

        /// Prints a request as JSON, then as a command for `curl`. Only the key is masked, so it can be tried by hand.
        /// The app's id is in the command if it is set, because a key can belong to several apps.
        static void printRequest(Attempt attempt, Form form, DifyClient client, PrintWriter out) {
            var sent = new String(client.body(attempt, form.values(attempt.row())), UTF_8);
            var body = Text.printable(sent, Integer.MAX_VALUE); // JSON can contain marks that turn a line around
            out.println("\n" + body);
            out.println("curl -X POST " + Text.shell(client.startAddress().toString())
                    + " -H 'Authorization: Bearer app-***'"
                    + (client.access().appId().isEmpty() ? "" : " -H 'X-Dify-App-ID: " + client.access().appId() + "'")
                    + " -H 'Content-Type: application/json' -d "
                    + Text.shell(body));
        }
    }

    /// Shows the progress of a batch from its files, as a table or as one JSON object.
    static final class StatusView {
        private static final int BAR = 30; // characters of a bar for all rows; a line then fits into 80 columns
        /// The order of bars and of JSON keys, on which scripts rely.
        private static final List<RowStatus> ORDER = List.of(RowStatus.SUCCEEDED, RowStatus.PARTIAL,
                RowStatus.FAILED, RowStatus.PAUSED, RowStatus.UNKNOWN, RowStatus.PENDING);

        /// Prints the status in the order in which people ask. They want to know how far the batch is, how long it
        /// takes, why rows failed, what is unusual, and what to do next.
        static void print(Batch batch, PrintWriter out, Ansi paint, String next) {
            out.println(headline(batch, paint));
            out.println();
            bars(counts(batch.index()::count), 10, RowStatus::word, paint::by).forEach(out::println);
            out.println();
            figures(batch).forEach((name, figure) -> out.println("  " + paint.faint("%-15s".formatted(name)) + figure));
            if (batch.index().onRetryList().findAny().isPresent()) out.println();
            Cause.print(batch, out, paint);
            var notes = notes(batch);
            if (!notes.isEmpty()) out.println();
            notes.forEach(note -> out.println("  Note: " + note));
            out.println();
            out.println(next);
            out.flush();
        }

        static String title(Batch batch) {
            return batch.files().results().getFileName().toString();
        }

        /// Formats the first line: `results.jsonl: 20 rows · Dify 1.16.0 · version 3f2c…`
        static String headline(Batch batch, Ansi paint) {
            int rows = batch.index().rows();
            var versions = batch.index().versions();
            var about = batch.history().last(SessionEvent.class)
                    .map(session -> " · " + Text.printable("Dify " + session.server(), 80)).orElse("");
            if (!versions.isEmpty()) about += (versions.size() == 1 ? " · version " : " · versions ")
                    + Text.joinFirst(3, versions.stream().map(version -> Text.printable(version, 40)));
            return paint.bold(batch.files().results().toString()) + ": " + Text.number(rows)
                    + (rows == 1 ? " row" : " rows") + paint.faint(about);
        }

        /// Draws a bar for each count above zero: `  succeeded           19   95.0 %  █████████████████████████████`.
        /// The smallest count still gets one block, so that it is not overlooked.
        ///
        /// @param wide how many characters each word takes, with spaces after it
        static <T> List<String> bars(Map<T, Long> counts, int wide, Function<T, String> word,
                BiFunction<T, String, String> paint) {
            double all = sum(counts);
            return counts.entrySet().stream().filter(entry -> entry.getValue() > 0).map(entry -> {
                var key = entry.getKey();
                double share = entry.getValue() / all;
                return "  " + paint.apply(key, ("%-" + wide + "s").formatted(word.apply(key)))
                        + String.format(Locale.ROOT, " %,11d  %5.1f %%  ", entry.getValue(), 100 * share)
                        + paint.apply(key, "█".repeat((int) Math.max(1, Math.round(BAR * share))));
            }).toList();
        }

        static Map<RowStatus, Long> counts(ToLongFunction<RowStatus> count) {
            var counts = new LinkedHashMap<RowStatus, Long>();
            for (var status : ORDER) counts.put(status, count.applyAsLong(status));
            return counts;
        }

        static Map<String, Object> json(Map<RowStatus, Long> counts) {
            var json = object("total", sum(counts));
            counts.forEach((status, rows) -> json.put(status.word(), rows));
            return json;
        }

        private static long sum(Map<?, Long> counts) {
            return counts.values().stream().mapToLong(Long::longValue).sum();
        }

        /// Returns times, pace and cost by name. Leaves out what is not known.
        static Map<String, String> figures(Batch batch) {
            var figures = batch.figures();
            var spent = figures.spending();
            var latencies = Summary.latencies(figures);
            long attempts = figures.count(AttemptEvent.class), open = batch.history().inFlight();
            var shown = new LinkedHashMap<String, String>();
            figures.startedAt().ifPresent(start -> shown.put("time", Text.seconds(figures.timeTaken()) + " ("
                    + Times.local("yyyy-MM-dd HH:mm:ss", start) + " to "
                    + Times.local(figures.updatedAt().get()) + ")"));
            batch.history().liveSession().ifPresent(session -> shown.put("running", "since "
                    + Times.local("yyyy-MM-dd HH:mm:ss", session.t()) + " (process " + session.process().id() + ")"));
            if (rate(batch) > 0 && figures.timeTaken().toSeconds() >= 10) // a shorter time has too few rows
                shown.put("throughput", String.format(Locale.ROOT, "%,.1f rows/s", rate(batch)));
            if (!latencies.isEmpty()) shown.put("latency (s)", latencies);
            if (spent.tokens() > 0) shown.put("tokens", Text.number(spent.tokens()));
            if (!spent.prices().isEmpty()) shown.put("cost", Summary.cost(spent));
            if (attempts > 0) shown.put("attempts", Text.number(attempts) + " ("
                    + Text.count(figures.retries(), "retry", "retries") + ")");
            if (open > 0) shown.put("unfinished", Text.number(open) + " (running or interrupted)");
            Forecast.of(batch).ifPresent(forecast -> shown.put("remaining", forecast.text()));
            return shown;
        }

        /// Returns how many rows got an outcome per second of running time, over all sessions, or 0 if no time has
        /// passed.
        private static double rate(Batch batch) {
            long millis = batch.figures().timeTaken().toMillis();
            var index = batch.index();
            return millis == 0 ? 0 : (index.rows() - index.count(RowStatus.PENDING)) * 1000.0 / millis;
        }

        /// Lists anomalies of a batch. `run` and `retry` report them too, before they continue the batch. A session
        /// that stopped early is no longer one if all rows have succeeded since.
        static List<String> notes(Batch batch) {
            var index = batch.index();
            var history = batch.history();
            var changed = history.changed().toArray();
            var notes = new ArrayList<String>();
            if (!index.isComplete())
                history.stopped().ifPresent(why ->
                        notes.add("the last session stopped early: " + Text.printable(why, 300)));
            history.unreadable().ifPresent(notes::add);
            if (changed.length > 0) notes.add(Text.count(changed.length, "succeeded row")
                    + " changed in the CSV (first: " + Text.id(index.id(changed[0]))
                    + "); 'run --rerun-changed' runs " + (changed.length == 1 ? "it" : "them") + " again");
            int strangers = index.size() - index.rows(); // they follow the rows of the CSV
            if (strangers > 0) notes.add(Text.count(strangers, "id of the batch is", "ids of the batch are")
                    + " not in the CSV (first: " + Text.id(index.id(index.rows())) + ")");
            // a retry would ask a person to fill in the form again
            var answered = history.failedAfterForm().filter(index::isRow).mapToObj(index::id).map(Text::id).toList();
            if (!answered.isEmpty()) notes.add(Text.count(answered.size(), "row is", "rows are")
                    + " not retried: the run ended after its form was submitted ("
                    + Text.joinFirst(5, answered.stream()) + "); 'retry ID' runs a row again");
            long late = batch.figures().count(LateEvent.class);
            if (late > 0) notes.add(Text.count(late, "run finished after its row was sent again",
                    "runs finished after their rows were sent again"));
            if (!batch.figures().missingFiles().isEmpty()) notes.add(missing(batch));
            if (!history.lost().isEmpty()) notes.add(batch.files().results()
                    + " is shorter than it was; results of up to " + Text.count(history.lost().size(), "row")
                    + " may be missing (first: " + Text.id(index.id(history.lost().getFirst()))
                    + "); 'run' recovers them from Dify");
            return notes;
        }

        static String missing(Batch batch) {
            var files = batch.figures().missingFiles();
            return Text.count(files.values().stream().mapToInt(Integer::intValue).sum(), "file") + " of "
                    + Text.count(files.size(), "row") + " could not be saved ("
                    + Text.joinFirst(3, files.keySet().stream().map(batch.index()::id).map(Text::id))
                    + "); see 'missing' in the log, or run 'retry --force ID'";
        }

        /// Returns the status for `--json`. Scripts rely on the keys and their order; see docs/files.md.
        static Map<String, Object> json(Batch batch) {
            var index = batch.index();
            var history = batch.history();
            var figures = batch.figures();
            var missing = figures.missingFiles();
            var json = json(counts(index::count));
            json.putAll(object(
                    "attempts", figures.count(AttemptEvent.class),
                    "retries", figures.retries(),
                    "total_tokens", figures.spending().tokens(),
                    "started_at", figures.startedAt().map(Times::text).orElse(null),
                    "updated_at", figures.updatedAt().map(Times::text).orElse(null),
                    "errors", Cause.groups(batch).stream().map(Cause.Group::json).toList(),
                    "running_seconds", figures.timeTaken().toMillis() / 1000.0,
                    "rows_per_second", Math.round(rate(batch) * 1000) / 1000.0,
                    "seconds", figures.latencies(),
                    "cost", figures.spending().prices(),
                    "in_flight", history.inFlight(),
                    "late", figures.count(LateEvent.class),
                    "lost_results", history.lost().size(),
                    "unread_lines", history.unreadableLines(),
                    "ids_not_in_input", index.size() - index.rows(),
                    "missing_files", object("count", missing.values().stream().mapToInt(Integer::intValue).sum(),
                            "rows", missing.size(), "ids", missing.keySet().stream().limit(3).map(index::id).toList()),
                    "versions", List.copyOf(index.versions()),
                    "changed_in_input", history.changed().count(),
                    "runs_without_price", figures.spending().unpriced(),
                    "stopped", history.stopped().orElse(null),
                    "forecast", Forecast.json(batch),
                    "running", history.liveSession().map(session -> object("process", session.process().id(),
                            "since", Times.text(session.t()))).orElse(null)));
            return json;
        }

        /// Shows all shards of a batch that is not merged yet, as a table with a line for each or as one JSON object.
        ///
        /// @param hasCsv whether the CSV is known; without it, it is unknown how many rows a shard has that has not
        ///     started
        record OfShards(Path results, List<Batch> shards, boolean hasCsv) {
            static OfShards of(Shards shards, Optional<Csv> csv) {
                var whole = shards.whole().results();
                var batches = IntStream.rangeClosed(1, shards.count())
                        .mapToObj(number -> BatchFiles.of(new Shard(number, shards.count()).of(whole)))
                        // false, because only counts are shown
                        .map(files -> Batch.peek(files, csv, false, List.of())).toList();
                return new OfShards(whole, batches, csv.isPresent());
            }

            boolean isComplete() { // with the CSV, a shard that has not started is complete if it has no rows
                return shards.stream().allMatch(shard -> shard.index().isComplete()
                        && (hasCsv || shard.files().isStarted()) && shard.figures().missingFiles().isEmpty());
            }

            private Map<RowStatus, Long> counts() {
                return StatusView.counts(status ->
                        shards.stream().mapToLong(shard -> shard.index().count(status)).sum());
            }

            List<Batch> started() {
                return shards.stream().filter(shard -> shard.files().isStarted()).toList();
            }

            /// Returns shards that have rows but no files. Without a CSV, every shard that has not started is assumed
            /// to have rows.
            List<Shard> missing() {
                return shards.stream()
                        .filter(shard -> !shard.files().isStarted() && (!hasCsv || shard.index().rows() > 0))
                        .map(shard -> Shards.shard(shard.files())).toList();
            }

            /// Prints all rows by status, then a line for each shard.
            void print(PrintWriter out, Ansi paint, String next) {
                out.println(paint.bold(results.toString()) + ": " + started().size() + " of "
                        + Text.count(shards.size(), "shard") + " started, not merged yet\n");
                bars(counts(), 10, RowStatus::word, paint::by).forEach(out::println);
                out.println();
                for (var shard : shards) {
                    var history = shard.history();
                    var counts = RowStatus.counts(shard.index()::count, paint::by);
                    out.println("  " + paint.faint("%-7s".formatted(Shards.shard(shard.files())))
                            + (counts.isEmpty() ? "" : counts + " · ") + shard.figures().updatedAt()
                            .map(at -> history.inFlight() + " in flight · " + Times.local(at)).orElse("not started"));
                }
                out.println();
                out.println(next);
            }

            Map<String, Object> json() {
                var all = StatusView.json(counts());
                all.put("shards", shards.stream().map(shard -> {
                    var json = object("shard", Shards.shard(shard.files()).toString());
                    json.putAll(StatusView.json(shard));
                    return json;
                }).toList());
                return all;
            }
        }
    }

    /// Holds the reason why rows failed or are unresolved.
    record Cause(RowStatus outcome, String text) {
        static Cause of(Batch batch, int entry) {
            return new Cause(batch.index().status(entry), batch.history().cause(entry));
        }

        /// Holds the failed, paused or unknown rows that have the same cause.
        ///
        /// @param until when the first of their forms expires; empty if none of them expires
        record Group(Cause cause, List<String> ids, String until) {
            static Group of(Batch batch, Cause cause, List<Integer> entries) {
                return new Group(cause, entries.stream().map(batch.index()::id).toList(), entries.stream()
                        .flatMap(batch.history()::forms).map(Event.FormEvent::until).filter(time -> !time.isEmpty())
                        .min(Comparator.naturalOrder()).orElse("")); // times in UTC sort as text
            }

            /// Formats a cause and its first rows: `3 × unknown: the answer broke off (r-1, r-2, …)`
            String line() {
                var examples = Text.joinFirst(3, ids.stream().map(Text::id));
                return ids.size() + " × " + Text.printable(cause.words(), 160) + Event.FormEvent.untilText(until)
                        + " (" + examples + ")";
            }

            Map<String, Object> json() {
                return object("outcome", cause.outcome().word(),
                        "cause", cause.text() + Event.FormEvent.untilText(until), "count", ids.size(),
                        "ids", ids.stream().limit(3).toList());
            }
        }

        /// Returns the causes, the most frequent first. Causes that are equally frequent stay in the order in which
        /// they occur in the CSV.
        static List<Group> groups(Batch batch) {
            var groups = batch.index().onRetryList().boxed().collect(Collectors.groupingBy(entry -> of(batch, entry),
                    LinkedHashMap::new, Collectors.toList()));
            return groups.entrySet().stream().map(group -> Group.of(batch, group.getKey(), group.getValue()))
                    .sorted(Comparator.comparingInt(group -> -group.ids().size())).toList();
        }

        /// Returns the cause in words: `unknown: the answer broke off`. For failed rows, it is the text alone, because
        /// people expect failures here.
        String words() {
            return outcome == RowStatus.FAILED ? text : outcome.word() + ": " + text;
        }

        static void print(Batch batch, PrintWriter out, Ansi paint) {
            Text.printFirst(groups(batch), 10, group -> // more causes would push the next command off the screen
                    out.println("  " + paint.by(group.cause().outcome(), group.line())), "  %s causes", out);
        }
    }

    /// Writes an Excel workbook, or a CSV for spreadsheets: UTF-8 with byte order mark, CR LF, and escaped formulas.
    static final class Spreadsheet {
        /// Names of the last columns, on which spreadsheets of users rely.
        private static final List<String> ENDING = List.of("status", "error", "run_id", "attempts", "seconds", "tokens",
                "price", "currency", "edited");
        /// Matches characters that XML, and so a workbook, cannot contain, and other control characters, which could
        /// change what a terminal or spreadsheet shows. Tab and line breaks stay.
        private static final Pattern CONTROLS =
                Pattern.compile("[\\x00-\\x08\\x0B\\f\\x0E-\\x1F\\x7F-\\x9F\\p{Cs}\uFFFE\uFFFF]");
        /// Matches numbers such as `-5`, which begin like formulas but do no harm.
        private static final Pattern NUMBER = Pattern.compile("[+-]?(\\d+([.,]\\d+)*|[.,]\\d+)([eE][+-]?\\d+)?%?");

        private final Path path;
        private final char delimiter;
        private final boolean raw;
        private CellWriter cells; // null if a workbook is written
        private BookWriter book;
        private long rows = -1, escaped = 0, tooLong = 0; // rows starts at -1 because the header is not a row

        /// @param raw whether a CSV keeps formulas and control characters, for programs that do not run formulas
        Spreadsheet(Path path, char delimiter, boolean raw) {
            this.path = path;
            this.delimiter = delimiter;
            this.raw = raw;
        }

        /// Begins the file with its header. The byte order mark of a CSV makes Excel read it as UTF-8.
        void open(OutputStream out, Collection<String> head) throws IOException {
            if (path.toString().toLowerCase(Locale.ROOT).endsWith(".xlsx")) book = new BookWriter(out);
            else cells = new CellWriter(Json.utf8(out).append('\uFEFF'), delimiter);
            write(head, new BitSet());
        }

        /// Writes a row. Workbooks need no escapes, because their texts are never run as formulas.
        ///
        /// @param typed the columns whose cells may be numbers or dates; all others are texts, even if they look like
        ///     numbers
        void write(Collection<String> row, BitSet typed) throws IOException {
            rows++;
            tooLong += row.stream().filter(cell -> cell.length() > BookWriter.LONGEST).count();
            if (book != null) book.write(row.stream().map(Spreadsheet::withoutControls).toList(), typed);
            else cells.write(raw ? row : row.stream().map(this::escaped).toList());
        }

        void finish() throws IOException {
            if (book != null) book.finish();
            else cells.flush();
        }

        static String withoutControls(String cell) {
            return CONTROLS.matcher(cell).replaceAll("\uFFFD");
        }

        /// Puts a `'` before text that a spreadsheet would run as a formula, and replaces control characters. A text of
        /// 100 characters is not a number, and a much longer one would overflow the stack of the pattern's repetition.
        private String escaped(String cell) {
            var clean = withoutControls(cell);
            if (clean.isEmpty() || "=+-@\t\r".indexOf(clean.charAt(0)) < 0
                    || clean.length() < 100 && NUMBER.matcher(clean).matches()) return clean;
            escaped++;
            return "'" + clean;
        }

        /// Returns the text of a cell, which is empty for a missing value.
        static String cell(JsonNode value) {
            return value == null || value.isNull() ? "" : LineOffsets.RowEnd.text(value);
        }

        void printSummary(PrintWriter err) {
            err.println(Text.count(rows, "row") + ".");
            if (escaped > 0) err.println("Escaped " + Text.count(escaped, "cell that looks like a formula",
                    "cells that look like formulas") + ".");
            if (tooLong > 0) err.println(Text.count(tooLong, "cell is", "cells are") + " longer than "
                    + Text.number(BookWriter.LONGEST) + " characters: Excel cuts off the rest.");
            err.flush();
        }

        /// Adds the names of all outputs as a batch is read, in the order in which they first appear.
        static Batch.Listener addOutputs(Set<String> names) {
            return (_, line) -> names.addAll(LineOffsets.RowEnd.of(line).outputs().keySet());
        }

        /// Writes a batch in the input's order. Its columns are those of the input, `output.<name>` for each output,
        /// then the outcome. If two of them have the same name, the later one gets a prefix, because programs find
        /// columns by their names.
        void export(Batch batch, Set<String> outputs, boolean failed, OutputStream out) throws IOException {
            var csv = batch.csv().orElseThrow();
            var head = new LinkedHashSet<String>();
            for (var input : csv.inputs()) // a constant may have the name of a column that is sent under another name
                if (!head.add(input.title())) head.add("var." + input.title());
            for (var name : Stream.concat(outputs.stream().map("output."::concat), ENDING.stream()).toList())
                while (!head.add(name)) name = "run." + name;
            open(out, head);
            try (var ends = new LineOffsets.RowEnds(batch)) {
                var rows = batch.rows(entry -> !failed || batch.index().status(entry).isOnRetryList());
                while (rows.hasNext()) {
                    var row = rows.next();
                    var end = ends.of(row.index());
                    var cells = new ArrayList<>(row.inputs().values());
                    var typed = new BitSet();
                    for (var name : row.inputs().keySet())
                        typed.set(csv.columns().indexOf(name), row.typed().contains(name));
                    for (var name : outputs) {
                        var value = end.outputs().get(name);
                        typed.set(cells.size(), value != null && value.isNumber());
                        cells.add(cell(value));
                    }
                    // attempts, seconds, tokens and price are numbers
                    typed.set(cells.size() + ENDING.indexOf("attempts"), cells.size() + ENDING.indexOf("currency"));
                    cells.addAll(ending(batch, row.index(), end));
                    write(cells, typed);
                }
            }
            finish();
        }

        /// Returns the cells for the columns [#ENDING]. The seconds come from the log, which has those of failed rows
        /// too, or from the result if the log is missing.
        private static List<String> ending(Batch batch, int entry, LineOffsets.RowEnd end) {
            long attempts = batch.history().attempts(entry);
            var millis = batch.figures().millis(entry);
            var seconds = end.seconds();
            if (millis.isPresent()) seconds = BigDecimal.valueOf(millis.getAsLong(), 3).toPlainString();
            return List.of(batch.index().status(entry).word(), end.error(), end.run(),
                    attempts == 0 ? "" : Long.toString(attempts), seconds, end.tokens(), end.price(), end.currency(),
                    end.edited() ? "true" : "");
        }
    }

    /// Writes an Excel workbook with one worksheet. No cell is a formula.
    static final class BookWriter {
        /// Excel's limits of a cell, in characters, and of columns. Rows are written in blocks to save memory.
        static final int LONGEST = 32_767;
        private static final int MAX_COLUMNS = 1 << 14, BLOCK = 1000;
        /// Matches numbers without leading zeros, which a number would lose.
        private static final Pattern NUMBER = Pattern.compile("-?(0|[1-9]\\d*)(\\.\\d+)?");

        private final Workbook book;
        private final Worksheet sheet;
        private final Map<Integer, Integer> widths = new HashMap<>();
        private int row = 0;

        BookWriter(OutputStream out) {
            book = new Workbook(out, "difyexec", null); // no version, because it must look like Excel's, such as 16.03
            sheet = book.newWorksheet("Results");
            sheet.freezePane(0, 1); // the header, which is one row, stays in view
        }

        /// Writes a row. Fails at Excel's limits of rows and columns, because the rest would be lost without a message.
        void write(Collection<String> cells, BitSet typed) throws IOException {
            if (row == Book.MAX_ROWS || cells.size() > MAX_COLUMNS)
                throw new Unusable("too large for an Excel worksheet (" + Text.number(Book.MAX_ROWS) + " rows, "
                        + Text.number(MAX_COLUMNS) + " columns)", "export a .csv");
            int column = 0;
            for (var whole : cells) {
                var cell = whole.substring(0, Math.min(LONGEST, whole.length())); // `tooLong` counts these
                // a workbook is compressed, so the stream that masks other files would not find the API key
                if (Secret.current().occursIn(cell)) cell = Secret.current().mask(cell);
                // in characters, wide enough for a short name, and not so wide that a text fills the screen
                widths.merge(column, Math.clamp(cell.length() + 2, 8, 60), Math::max);
                boolean isValue = typed.get(column) && (writeNumber(column, cell) || writeMoment(column, cell));
                if (!isValue && !cell.isEmpty()) writeText(column, cell);
                column++;
            }
            if (++row % BLOCK == 0) flush();
        }

        /// Writes a text as an inline string. The other form, `value`, keeps spaces at the ends, but all such texts
        /// stay in memory until the end.
        private void writeText(int column, String cell) {
            if (cell.equals(cell.strip())) sheet.inlineString(row, column, escaped(cell));
            else sheet.value(row, column, escaped(cell));
        }

        /// Writes a number. Returns false if the cell must stay text, because Excel keeps only 15 digits.
        private boolean writeNumber(int column, String cell) {
            boolean isNumber = NUMBER.matcher(cell).matches()
                    && new BigDecimal(cell).stripTrailingZeros().precision() <= 15;
            if (isNumber) sheet.value(row, column, new BigDecimal(cell));
            return isNumber;
        }

        /// Writes a date, a time or both, which Excel stores as a number with a format. A time is a part of a day of
        /// 86,400 seconds. Returns false if the cell must stay text.
        private boolean writeMoment(int column, String cell) {
            var format = "yyyy-mm-dd hh:mm:ss";
            try {
                if (cell.contains("T")) sheet.value(row, column, LocalDateTime.parse(cell));
                else if (cell.contains(":")) sheet.value(row, column, LocalTime.parse(cell).toNanoOfDay() / 86_400e9);
                else sheet.value(row, column, LocalDate.parse(cell));
            } catch (DateTimeParseException _) {
                return false;
            }
            if (!cell.contains("T")) format = cell.contains(":") ? "hh:mm:ss" : "yyyy-mm-dd";
            sheet.style(row, column).format(format).set();
            return true;
        }

        /// Writes the collected rows. The widths come before the first rows in the file, so later rows cannot change
        /// them.
        private void flush() throws IOException {
            if (row <= BLOCK) widths.forEach((column, width) -> sheet.width(column, width));
            sheet.flush();
        }

        /// Escapes the first underscore of text such as `_x000D_`, which Excel would read as a line break.
        private static String escaped(String cell) {
            return Book.ESCAPE.matcher(cell).replaceAll("_x005F$0");
        }

        void finish() throws IOException {
            if (!widths.isEmpty()) sheet.setAutoFilter(0, 0, row - 1, widths.size() - 1);
            if (row < BLOCK) flush(); // sets the widths, for which there was no block yet
            book.finish();
        }
    }

    /// Writes a self-contained page that opens offline, with all rows to search. [Html] draws it from JSON, so that a
    /// value cannot become markup.
    static final class WebPage {
        /// Marks a page of this tool, which the next one may overwrite.
        static final String MARK = "<meta name=\"generator\" content=\"difyexec ";
        /// `BLOCK` is in rows for each script element. A browser parses one element at a time, so it stays responsive.
        /// `LONGEST` is in characters of a value, so that a browser can show 100,000 rows. The results are complete.
        private static final int BLOCK = 5_000, LONGEST = 2_000;

        /// Returns whether the file is a page or report of this tool, which may be overwritten. The mark is in its
        /// first 1,000 bytes.
        static boolean isOurs(Path file, String mark) {
            try (var in = Files.newInputStream(file)) {
                return new String(in.readNBytes(1_000), UTF_8).contains(mark);
            } catch (IOException _) {
                return false;
            }
        }

        /// Writes the HTML report of a batch, with its charts, its causes of failure and its rows. The rows of the CSV
        /// come first, in its order, so one iterator reads them all. Inputs come from the result if there is one,
        /// because the CSV may have changed since.
        static void report(Batch batch, OutputStream file) throws IOException {
            var groups = Cause.groups(batch);
            var causes = new HashMap<Cause, Integer>();
            groups.forEach(group -> causes.put(group.cause(), causes.size()));
            var totals = new LinkedHashMap<String, Long>();
            StatusView.counts(batch.index()::count).forEach((status, rows) -> totals.put(status.word(), rows));
            try (var ends = new LineOffsets.RowEnds(batch)) {
                var rows = batch.rows(_ -> true);
                write(file, object("title", "Report: " + StatusView.title(batch),
                        "about", StatusView.headline(batch, Ansi.OFF), "totals", totals,
                        "figures", StatusView.figures(batch), "notes", StatusView.notes(batch),
                        "causes", groups.stream().map(Cause.Group::json).toList()), batch.index().size(), entry -> {
                            var status = batch.index().status(entry);
                            var end = ends.of(entry);
                            var inputs = new LinkedHashMap<>(end.inputs());
                            // the last rows of the batch may not be in the CSV
                            var cells = rows.hasNext() ? rows.next().inputs() : Map.<String, String>of();
                            if (inputs.isEmpty())
                                cells.forEach((column, cell) -> inputs.put(column, TextNode.valueOf(cell)));
                            return prune(object("id", batch.index().id(entry), "outcome", status.word(),
                                    "cause", causes.get(Cause.of(batch, entry)),
                                    "seconds", seconds(batch, entry), "tokens", end.tokens(),
                                    "price", (end.price() + " " + end.currency()).strip(), "run", end.run(),
                                    "edited", end.edited(), "inputs", values(inputs), "outputs", values(end.outputs()),
                                    "attempts", attempts(entry, ends, end.run())));
                        });
            }
        }

        /// Writes a page. Its policy allows only this style and script, by their hashes, so that nothing in a value can
        /// run. Rows are written one by one, because all of them need not fit into memory.
        static void write(OutputStream file, Map<String, Object> batch, int rows,
                IOFunction<Integer, Map<String, Object>> row) throws IOException {
            var out = new BufferedWriter(Json.utf8(file), 1 << 16); // few large writes, because a page may be large
            out.write(Html.HEAD.formatted(hash(Html.STYLE), hash(Html.SCRIPT), VERSION, Html.STYLE) + Html.BODY);
            out.write("<script type=\"application/json\" id=\"batch\">" + json(batch) + "</script>\n");
            for (int n = 0; n < rows; n++) {
                out.write(n % BLOCK == 0 ? "<script type=\"application/json\" class=\"rows\">[" : ",");
                out.write(json(row.apply(n)) + "\n");
                if (n % BLOCK == BLOCK - 1 || n == rows - 1) out.write("]</script>\n");
            }
            out.write("<script>" + Html.SCRIPT + "</script>\n</body>\n</html>\n");
            out.flush();
        }

        /// Returns the hash by which a Content-Security-Policy allows a script or a style.
        private static String hash(String content) {
            return "sha256-" + Base64.getEncoder().encodeToString(Fingerprint.sha256().digest(content.getBytes(UTF_8)));
        }

        /// Returns JSON without the characters that could end the script element around it. A value may contain
        /// `</script>`.
        private static String json(Object value) {
            return Json.text(value).replace("<", "\\u003C").replace(">", "\\u003E").replace("&", "\\u0026");
        }

        static Map<String, Object> values(Map<String, JsonNode> values) {
            var shown = new LinkedHashMap<String, Object>();
            values.forEach((name, value) -> shown.put(Text.cut(name, 200), value(value))); // a name may have any length
            return shown;
        }

        /// Returns text as is and other values as `json`. A value that is too long is cut, and its `length` is added.
        private static Object value(JsonNode value) {
            var text = LineOffsets.RowEnd.text(value);
            if (text.length() > LONGEST) return object("text", Text.cut(text, LONGEST), "length", text.length());
            return value.isTextual() ? text : object("json", text);
        }

        /// Leaves out empty and zero fields to keep the page small, because it may have 100,000 rows. An `Integer` 0
        /// stays, because it is the index of the first cause.
        static Map<String, Object> prune(Map<String, Object> object) {
            object.values().removeIf(value -> value == null || Set.of("", 0L, 0.0, false).contains(value));
            return object;
        }

        static double seconds(Batch batch, int entry) {
            return batch.figures().millis(entry).orElse(0) / 1000.0;
        }

        /// Returns the attempts of a row, each with its last outcome, which replaced those before it.
        ///
        /// @param run the row's own run; an attempt shows its run only if that is another one
        private static List<Map<String, Object>> attempts(int entry, LineOffsets.RowEnds ends, String run)
                throws IOException {
            return ends.traces(entry).stream().map(trace -> {
                var attempt = object("start", trace.attempt().t().toEpochMilli(),
                        "mode", trace.attempt().mode().toString());
                trace.all(EndEvent.class).reversed().stream().findFirst().ifPresent(end -> attempt.putAll(prune(object(
                        "outcome", end.outcome(), "seconds", end.seconds(), "error", trace.error(end),
                        "run", end.run().equals(run) ? "" : end.run()))));
                return attempt;
            }).toList();
        }
    }

    /// Compares two sides of results, row by row. A side has one file, or several of repeated runs. The first side has
    /// no file if results are only checked against expected values. Rows are in the order in which the first file's log
    /// sent them, followed by those that only later files have.
    static final class Comparison implements AutoCloseable {
        /// Limit the rows, and the characters of a text, on the terminal. `--all` and the files show more.
        private static final int MAX_ROWS = 10, LONGEST = 300;
        private static final double LEVEL = 0.95; // of all intervals; the usual level for a verdict
        static final String JUNIT_MARK = "<!-- difyexec "; // so that the next --junit may overwrite it

        private final Side first, second;
        private final Scope scope;
        private final Expectations expected;
        /// Holds the rows of the files, followed by those that have an expected value and are in no file.
        private final Index rows = new Index();
        private final int recorded; // how many of these rows are in the files
        private final Map<Match, Long> matches = new EnumMap<>(Match.class);
        private final Map<Grade, Long> grades = new EnumMap<>(Grade.class);
        /// Counts the rows that differ in each output, by its pointer.
        private final Map<String, Long> outputs = new LinkedHashMap<>();
        /// Hold the names of inputs other than the id, and the pointers of the outputs to compare.
        private final Set<String> inputNames = new LinkedHashSet<>(), pointers = new LinkedHashSet<>();
        /// Hold the numbers of the rows that differ, and of all rows that `--json` lists.
        private final BitSet unequal = new BitSet(), listed = new BitSet();
        private long otherInputs = 0;
        private final Map<String, Figure> figures = new LinkedHashMap<>();
        /// Holds the interval of the cost difference, in percent of the first side's cost. It is NaN unless all files
        /// have the same single currency.
        private Bootstrap.Interval dearer;

        /// Compares the results of a row. `FAILED_FIRST` and `FAILED_SECOND` include rows that are paused or unknown.
        /// The views list the constants in this order.
        enum Match implements Named {
            SAME, DIFFERENT, UNSTABLE, ONLY_FIRST, ONLY_SECOND, FAILED_FIRST, FAILED_SECOND, NEITHER;

            /// Classifies a row before its outputs are compared. A pending row counts as absent on its side.
            static Match of(RowStatus first, RowStatus second) {
                if (first.isSuccess() && second.isSuccess()) return SAME;
                if (first == second && first == RowStatus.PENDING) return NEITHER;
                if (first == RowStatus.PENDING) return ONLY_SECOND;
                if (second == RowStatus.PENDING) return ONLY_FIRST;
                if (first.isSuccess()) return FAILED_SECOND;
                return second.isSuccess() ? FAILED_FIRST : NEITHER;
            }

            /// Returns whether the sides differ. An unstable row may differ by chance, and a row without a success on
            /// either side has nothing to compare.
            boolean isDifference() {
                return this != SAME && this != UNSTABLE && this != NEITHER;
            }
        }

        /// Grades a row by its results on the second side. Without expected values, those of the first side are what is
        /// expected.
        enum Grade implements Named { CORRECT, MISSED, NO_RESULT, NOT_JUDGED }

        /// Selects a part of the outputs by its JSON pointer, or all but the ignored ones.
        record Scope(String part, Set<String> ignored, JsonDiff diff) {
            /// Returns the pointers of a result's outputs that are compared.
            Set<String> pointers(Result result) {
                if (!part.isEmpty()) return result.at(part).isMissingNode() ? Set.of() : Set.of(part);
                return result.end().outputs().keySet().stream().filter(name -> !ignored.contains(name))
                        .map(JsonDiff::pointer).collect(Collectors.toCollection(LinkedHashSet::new));
            }

            /// Compares each success of one side with each of the other. If both sides are the same, it compares no
            /// result with itself, because that would hide how much results differ by chance.
            List<Compared> compare(List<Result> first, List<Result> second) {
                var comparisons = new ArrayList<Compared>();
                for (var one : first) for (var two : second)
                    if (one != two && one.isSuccess() && two.isSuccess())
                        comparisons.add(new Compared(one, two, differences(one, two)));
                return comparisons;
            }

            private Map<String, List<JsonDiff.Difference>> differences(Result one, Result two) {
                var differences = new LinkedHashMap<String, List<JsonDiff.Difference>>();
                Stream.of(one, two).map(this::pointers).flatMap(Set::stream).distinct().forEach(pointer ->
                        differences.put(pointer, diff.of(pointer, one.at(pointer), two.at(pointer))));
                differences.values().removeIf(List::isEmpty);
                return differences;
            }
        }

        /// Holds a row's result in one file. The entry is -1 if the file does not contain the row.
        ///
        /// @param correct 1 if the row succeeded as expected, otherwise 0; NaN if it is not in the file or has no
        ///     expected value, so that it does not count
        record Result(Batch batch, int entry, LineOffsets.RowEnd end, double correct) {
            static Result of(LineOffsets.RowEnds file, String id, Expectations expected) {
                int entry = file.batch().index().find(id);
                if (entry < 0) return new Result(file.batch(), entry, LineOffsets.RowEnd.NONE, Double.NaN);
                var end = file.of(entry);
                double correct = file.batch().index().status(entry).isSuccess() && expected.isMet(id, end) ? 1 : 0;
                return new Result(file.batch(), entry, end, expected.isJudged(id) ? correct : Double.NaN);
            }

            JsonNode at(String pointer) {
                return end.at(JsonPointer.compile(pointer));
            }

            RowStatus status() {
                return entry < 0 ? RowStatus.PENDING : batch.index().status(entry);
            }

            boolean isSuccess() {
                return status().isSuccess();
            }

            double seconds() {
                return entry < 0 ? 0 : WebPage.seconds(batch, entry);
            }
        }

        /// Holds two results and their differences in each output, by the output's pointer.
        record Compared(Result one, Result two, Map<String, List<JsonDiff.Difference>> differences) {
            boolean isUnequal() {
                return !differences.isEmpty();
            }

            static double shareOfUnequal(List<Compared> pairs) { // 0 without a pair, because nothing shows a difference
                return pairs.stream().mapToInt(pair -> pair.isUnequal() ? 1 : 0).average().orElse(0);
            }
        }

        /// Holds the files of one side, and what each row adds to its figures.
        static final class Side {
            final String name;
            private final List<LineOffsets.RowEnds> files;
            /// Holds the values of each figure, by row, because the bootstrap draws rows and sums each figure again.
            private final Map<String, double[]> parts = new HashMap<>();
            /// Holds each success, with its latency in milliseconds in the upper 32 bits and its row in the lower 32,
            /// so that sorting these numbers sorts them by latency.
            private final LongList took = new LongList();
            private long[] latencies = {};

            Side(String name, List<Batch> batches) {
                this.name = name;
                this.files = batches.stream().map(LineOffsets.RowEnds::new).toList();
            }

            Stream<Batch> batches() {
                return files.stream().map(LineOffsets.RowEnds::batch);
            }

            /// Returns a label for each file: `first`, or `first.1`, `first.2` … if the side has several.
            List<String> labels() {
                if (files.size() == 1) return List.of(name);
                return IntStream.rangeClosed(1, files.size()).mapToObj(n -> name + "." + n).toList();
            }

            List<Result> results(String id, Expectations expected) {
                return files.stream().map(file -> Result.of(file, id, expected)).toList();
            }

            /// Adds a row's result in one file. Time and cost come from the log, so they are unknown without one. A run
            /// that used tokens and has no price is counted, because it makes the cost too low.
            void count(int row, int rows, Result result) {
                if (result.entry() < 0) return;
                var history = result.batch().history();
                int entry = result.entry();
                var end = result.end();
                var adds = object("rows", 1, "succeeded", result.isSuccess() ? 1 : 0, "tokens", history.tokens(entry),
                        "retries", Math.max(0, history.attempts(entry) - 1),
                        // tokens are a text here, because a result may lack them
                        "runs without price", end.price().isEmpty() && end.tokens().matches(".*[1-9].*") ? 1 : 0);
                for (var currency : history.figures().spending().prices().keySet())
                    adds.put(cost(currency), history.cost(entry, currency));
                if (!Double.isNaN(result.correct())) adds.putAll(object("judged", 1, "correct", result.correct()));
                adds.forEach((figure, part) ->
                        parts.computeIfAbsent(figure, _ -> new double[rows])[row] += ((Number) part).doubleValue());
                if (result.isSuccess()) history.figures().millis(entry).ifPresent(millis ->
                        took.add(millis << Integer.SIZE | row));
            }

            void sort() { // once, because each of thousands of draws needs the order
                latencies = IntStream.range(0, took.size()).mapToLong(took::get).sorted().toArray();
            }

            /// Returns a figure of rows that count as often as they were drawn, or NaN if it is unknown. Sums are
            /// divided by the number of files, so that three files of a side can be compared with one.
            double of(String figure, int[] counts) {
                return switch (figure) {
                    case "percent succeeded" -> 100 * sum("succeeded", counts) / sum("rows", counts);
                    case "percent correct" -> 100 * sum("correct", counts) / sum("judged", counts);
                    case "seconds p50" -> seconds(0.5, counts);
                    case "seconds p90" -> seconds(0.9, counts);
                    default -> sum(figure, counts) / files.size();
                };
            }

            private double sum(String figure, int[] counts) {
                var all = parts.get(figure);
                return all == null ? Double.NaN : Bootstrap.sum(counts, all);
            }

            /// Returns the smallest latency in seconds that this share of the successes does not exceed, or NaN without
            /// successes. A cast to `int` takes the row from the lower bits.
            private double seconds(double share, int[] counts) {
                long all = 0;
                for (long one : latencies) all += counts[(int) one];
                long left = (long) Math.ceil(share * all);
                for (long one : latencies) {
                    left -= counts[(int) one];
                    if (left <= 0 && all > 0) return (one >> Integer.SIZE) / 1000.0;
                }
                return Double.NaN;
            }

            void close() {
                files.forEach(LineOffsets.RowEnds::close);
            }
        }

        /// Holds a row of both sides, with the differences between its outputs.
        ///
        /// @param shown one result of each side to show; two unequal ones, if there are such
        /// @param trend `worse`, `better`, or empty
        /// @param facts errors, and if there are any, expectations and shares, by their names in CSV, JSON and page
        record Pair(String id, List<Result> before, List<Result> after, Compared shown, Match match, Grade grade,
                String trend, Map<String, Object> facts) {
            List<Result> results() {
                return Stream.of(before, after).flatMap(List::stream).toList();
            }

            Set<String> outputs() {
                return shown.differences().keySet();
            }

            List<JsonDiff.Difference> differences() {
                return shown.differences().values().stream().flatMap(List::stream).toList();
            }

            String places() {
                return differences().stream().map(JsonDiff.Difference::pointer).collect(joining(" "));
            }

            /// Returns whether both rows succeeded with inputs that are recorded and differ. A line without inputs
            /// shows nothing.
            boolean hasOtherInputs() {
                Map<String, JsonNode> one = shown.one().end().inputs(), two = shown.two().end().inputs();
                return shown.one().isSuccess() && shown.two().isSuccess()
                        && !one.isEmpty() && !two.isEmpty() && !one.equals(two);
            }
        }

        /// Holds a figure of both sides, NaN if it is unknown, and the interval of their difference.
        record Figure(String name, int digits, double first, double second, Bootstrap.Interval interval) {
            private BigDecimal rounded(double figure) {
                return Double.isNaN(figure) ? null : BigDecimal.valueOf(figure).setScale(digits, RoundingMode.HALF_UP);
            }

            /// Subtracts the rounded figures, so that the result agrees with what is shown. Returns null if one of them
            /// is unknown.
            private BigDecimal difference() {
                return Double.isNaN(second - first) ? null : rounded(second).subtract(rounded(first));
            }

            String text(double figure) {
                return Double.isNaN(figure) ? "–" : String.format(Locale.ROOT, "%,." + digits + "f", rounded(figure));
            }

            private String signed(double figure) {
                return (rounded(figure).signum() < 0 ? "" : "+") + text(figure);
            }

            /// Returns the cells of a line, such as `seconds p50`, `0.24`, `0.27`, `+0.03 (+12.5 %)`, `+0.01 to +0.05`.
            /// A percentage gets no change in percent, which would be mistaken for points. An interval without width is
            /// left out, because it says nothing about chance.
            List<String> texts() {
                var change = difference();
                boolean isChanged = change != null && change.signum() != 0;
                var shown = isChanged ? signed(change.doubleValue()) : "";
                if (isChanged && rounded(first).signum() != 0 && !name.startsWith("percent")) shown += String.format(
                        Locale.ROOT, " (%+.1f %%)", 100 * change.doubleValue() / rounded(first).doubleValue());
                var range = interval.low() < interval.high()
                        ? signed(interval.low()) + " to " + signed(interval.high()) : "";
                return List.of(name, text(first), text(second), shown, range);
            }

            Map<String, Object> json() {
                return object("first", rounded(first), "second", rounded(second), "difference", difference(),
                        "low", rounded(interval.low()), "high", rounded(interval.high()));
            }
        }

        /// Reads all rows once to count them. Views read again what they show, because a batch need not fit into
        /// memory.
        ///
        /// @param sides two, or one that is only checked against expected values
        Comparison(List<List<Batch>> sides, Scope scope, Expectations expected) {
            boolean isOne = sides.size() == 1;
            first = new Side("first", isOne ? List.of() : sides.getFirst());
            second = new Side(isOne ? "results" : "second", sides.getLast());
            this.scope = scope;
            this.expected = expected;
            for (var batch : sides.stream().flatMap(List::stream).toList())
                batch.offsets().inOrderOfSending(batch.index().size())
                        .forEach(entry -> rows.findOrAdd(batch.index().id(entry)));
            recorded = rows.size();
            // "nothing differs" would pass for a good result, and a file without rows could have no header
            if (recorded == 0) throw new Unusable("no file to compare has a row that was sent", "run the batches");
            expected.judged().forEach(rows::findOrAdd);
            for (var match : Match.values()) matches.put(match, 0L);
            for (var grade : Grade.values()) grades.put(grade, 0L);
            // only now, because each side holds its figures in arrays with one value for each of `rows`
            for (int number = 0; number < rows.size(); number++) count(number, pair(number));
            // a failed row may lack the part, so this is an error only if a row succeeded on both sides
            long both = matches.get(Match.SAME) + matches.get(Match.DIFFERENT) + matches.get(Match.UNSTABLE);
            if (both > 0 && pointers.isEmpty() && !scope.part().isEmpty())
                throw new Unusable("--output " + Text.printable(scope.part(), 100)
                        + ": no row of any file has this part in its outputs");
            sides().forEach(Side::sort);
            measure();
        }

        private Stream<Side> sides() {
            return Stream.of(first, second).filter(side -> !side.labels().isEmpty()); // one label for each file
        }

        private boolean isOne() {
            return first.labels().isEmpty();
        }

        private boolean isRepeated() {
            return Math.max(first.labels().size(), second.labels().size()) > 1;
        }

        /// Returns the name of the figure that the verdict is about.
        private String decisive() {
            return expected.isEmpty() ? "percent succeeded" : "percent correct";
        }

        private static String cost(String currency) {
            return "cost " + Text.printable(currency, 8);
        }

        /// Computes the intervals of all figures from the same draws of rows, so that 10,000 rows take only seconds.
        /// `digits` lists the figures in the order in which they are shown, each with its digits after the point. Costs
        /// have as many as their most exact price. With several currencies, the change of cost is unknown.
        private void measure() {
            int whole = isRepeated() ? 1 : 0; // counts of repeated runs are means, so they have a fraction
            var costs = new LinkedHashMap<String, Integer>();
            sides().flatMap(Side::batches).forEach(batch -> batch.figures().spending().prices().forEach(
                    (currency, price) -> costs.merge(cost(currency), Math.max(0, price.scale()), Math::max)));
            // `decisive` adds "percent correct" if there are expected values
            var digits = object("rows", whole, "percent succeeded", 1, decisive(), 1, "seconds p50", 2,
                    "seconds p90", 2, "tokens", whole);
            digits.putAll(costs);
            if (!costs.isEmpty()) digits.put("runs without price", whole);
            digits.put("retries", whole);
            var differences = new ArrayList<ToDoubleFunction<int[]>>();
            for (var name : digits.keySet())
                differences.add(counts -> second.of(name, counts) - first.of(name, counts));
            var cost = costs.size() == 1 ? costs.firstEntry().getKey() : ""; // no figure has this name, so it is NaN
            differences.add(counts -> 100 * (second.of(cost, counts) / first.of(cost, counts) - 1));
            var intervals = Bootstrap.of(rows.size(), LEVEL, differences).iterator();
            int[] once = new int[rows.size()];
            Arrays.fill(once, 1);
            digits.forEach((name, shown) -> figures.put(name,
                    new Figure(name, (int) shown, first.of(name, once), second.of(name, once), intervals.next())));
            dearer = intervals.next();
        }

        /// Returns `better` or `worse` if the interval excludes 0, so that chance alone hardly explains the difference.
        /// Otherwise, returns `unclear`.
        private String verdict() {
            var decisive = figures.get(decisive()).interval();
            if (decisive.low() > 0) return "better";
            return decisive.high() < 0 ? "worse" : "unclear";
        }

        /// Returns the verdict, such as
        /// `percent correct: second is better, +6.5 points (+2.0 to +11.0), 8 % dearer (+5 % to +11 %)`. The cost is
        /// left out if its interval includes 0 or is unknown.
        private String sentence() {
            long judged = rows.size() - grades.get(Grade.NOT_JUDGED);
            if (isOne()) return grades.get(Grade.CORRECT) + " of " + Text.count(judged, "judged row") + " correct";
            var points = figures.get(decisive()).interval();
            if (Double.isNaN(points.estimate())) return "no verdict: one side has no result to judge";
            var sentence = verdict().equals("unclear") ? "no certain difference" : "second is " + verdict();
            sentence = String.format(Locale.ROOT, "%s: %s, %+.1f points (%+.1f to %+.1f)", decisive(), sentence,
                    points.estimate(), points.low(), points.high());
            var word = dearer.low() > 0 ? "dearer" : "cheaper";
            if (dearer.low() > 0 || dearer.high() < 0)
                sentence += String.format(Locale.ROOT, ", %.0f %% %s (%+.0f %% to %+.0f %%)",
                        Math.abs(dearer.estimate()), word, dearer.low(), dearer.high());
            return sentence;
        }

        /// Returns whether any row in the files has an expected value. Rows that are in no file have higher numbers.
        boolean hasJudgedRows() {
            return expected.judged().anyMatch(id -> rows.find(id) < recorded);
        }

        boolean hasDifferences() {
            return !unequal.isEmpty();
        }

        /// Reads a row from all files. It is different only if the sides differ more than each differs from itself.
        /// Otherwise, the difference may be chance, and the row is unstable. With one file a side, each side differs
        /// from itself in no pair.
        private Pair pair(int number) {
            var id = rows.id(number);
            List<Result> before = first.results(id, expected), after = second.results(id, expected);
            var across = scope.compare(before, after);
            double unequal = Compared.shareOfUnequal(across);
            double unequalFirst = Compared.shareOfUnequal(scope.compare(before, before));
            double unequalSecond = Compared.shareOfUnequal(scope.compare(after, after));
            // without a first side, the second also takes its place, so that nothing differs
            Result two = shown(after), one = before.isEmpty() ? two : shown(before);
            var match = Match.of(one.status(), two.status());
            if (unequal > 0) match = Match.UNSTABLE;
            if (unequal > Math.max(unequalFirst, unequalSecond)) match = Match.DIFFERENT;
            double correctFirst = correct(before), correctSecond = correct(after);
            var grade = grade(id, match, two, correctSecond);
            var trend = correctSecond < correctFirst ? "worse" : "";
            if (correctSecond > correctFirst) trend = "better";

            var facts = object("error_first", error(before), "error_second", error(after));
            if (!expected.isEmpty()) facts.putAll(object("correct_first", share(correctFirst),
                    "correct_second", share(correctSecond), "verdict", grade.key(), "trend", trend));
            if (isRepeated()) facts.putAll(object("unequal_first", share(unequalFirst),
                    "unequal_second", share(unequalSecond), "unequal_across", share(unequal)));
            var shown = across.stream().filter(Compared::isUnequal).findFirst()
                    .orElse(new Compared(one, two, Map.of()));
            return new Pair(id, before, after, shown, match, grade, trend, facts);
        }

        /// Returns the result that shows most of a row. That is a success, or otherwise any result that is not pending.
        private static Result shown(List<Result> all) {
            return all.stream().max(Comparator.comparing(Result::isSuccess)
                    .thenComparing(result -> result.status() != RowStatus.PENDING)).orElseThrow();
        }

        private static double correct(List<Result> side) {
            return side.stream().mapToDouble(Result::correct).filter(correct -> !Double.isNaN(correct)).average()
                    .orElse(Double.NaN);
        }

        /// Grades a row. With several files, at least half of its results must be correct. Without expected values, a
        /// row without a success on the first side cannot be judged.
        private Grade grade(String id, Match match, Result second, double correct) {
            if (!expected.isJudged(id)) return Grade.NOT_JUDGED;
            if (!second.isSuccess()) return Grade.NO_RESULT;
            boolean isMissed = expected.isEmpty() ? match == Match.DIFFERENT : correct < 0.5;
            if (isMissed) return Grade.MISSED;
            return expected.isEmpty() && match.isDifference() ? Grade.NOT_JUDGED : Grade.CORRECT;
        }

        private static String error(List<Result> side) {
            return side.stream().map(result -> result.end().error()).filter(error -> !error.isEmpty()).distinct()
                    .collect(joining(" · "));
        }

        /// Returns a share such as `0.667`, or an empty text without results.
        private static String share(double share) {
            return Double.isNaN(share) ? "" : new BigDecimal(share).setScale(3, RoundingMode.HALF_UP).toPlainString();
        }

        /// Counts a row. Keeps only numbers and the names of inputs and outputs, because a batch need not fit into
        /// memory.
        private void count(int number, Pair pair) {
            matches.merge(pair.match(), 1L, Long::sum);
            grades.merge(pair.grade(), 1L, Long::sum);
            boolean isMissed = pair.grade() == Grade.MISSED || pair.grade() == Grade.NO_RESULT;
            // without expected values, a row is also missed if it failed on both sides, which is no difference
            unequal.set(number, pair.match().isDifference() || !expected.isEmpty() && isMissed);
            // the terminal, unlike --json, does not list unstable rows, because they may differ by chance
            listed.set(number, unequal.get(number) || pair.match() == Match.UNSTABLE);
            if (pair.hasOtherInputs()) otherInputs++;
            pair.outputs().forEach(pointer -> outputs.merge(pointer, 1L, Long::sum));
            pair.before().forEach(result -> first.count(number, rows.size(), result));
            pair.after().forEach(result -> second.count(number, rows.size(), result));
            for (var result : pair.results()) {
                inputNames.addAll(result.end().inputs().keySet());
                pointers.addAll(scope.pointers(result));
            }
            inputNames.remove("id"); // the id has a column of its own already
        }

        private List<String> notes() {
            var notes = new ArrayList<String>();
            if (!isOne() && matches.get(Match.ONLY_FIRST) + matches.get(Match.ONLY_SECOND) == recorded)
                notes.add("no id has a result on both sides");
            if (otherInputs > 0) notes.add("the inputs of " + Text.count(otherInputs, "row") + " differ, too");
            return notes;
        }

        @Override
        public void close() {
            sides().forEach(Side::close);
        }

        /// Writes all rows. An input has one column for all files, because it is usually the same in them. The header
        /// is known with the first row, because every row has the same cells.
        void writeCsv(Spreadsheet file, OutputStream out) throws IOException {
            var labels = sides().map(Side::labels).flatMap(List::stream).toList();
            for (int number = 0; number < rows.size(); number++) {
                var pair = pair(number);
                var cells = object("id", pair.id(), "kind", pair.match().key(), "differs", pair.places());
                var inputs = pair.results().stream().map(result -> result.end().inputs())
                        .filter(known -> !known.isEmpty()).findFirst().orElse(Map.of());
                inputNames.forEach(name -> cells.put("input." + name, Spreadsheet.cell(inputs.get(name))));
                for (var pointer : pointers) for (int n = 0; n < labels.size(); n++)
                    cells.put(labels.get(n) + pointer, Spreadsheet.cell(pair.results().get(n).at(pointer)));
                var wanted = expected.cells(pair.id());
                expected.rules().forEach(rule -> cells.put("expected." + rule.column(), wanted.getOrDefault(rule, "")));
                cells.putAll(pair.facts());
                if (number == 0) file.open(out, cells.keySet());
                file.write(cells.values().stream().map(Object::toString).toList(), new BitSet());
            }
            file.finish();
        }

        /// Writes a JUnit report about the second side, as Surefire's schema describes it. The suite is the root
        /// element, because all programs that read such reports accept that form.
        void writeJUnit(OutputStream file) throws IOException {
            var out = new BufferedWriter(Json.utf8(file));
            var suite = second.batches().map(StatusView::title).collect(joining(", "));
            out.write("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n" + JUNIT_MARK + VERSION + " -->\n");
            out.write(tag("testsuite", object("name", suite, "tests", rows.size(),
                    "failures", grades.get(Grade.MISSED), "errors", grades.get(Grade.NO_RESULT),
                    "skipped", grades.get(Grade.NOT_JUDGED))) + "\n");
            for (int number = 0; number < rows.size(); number++) {
                var pair = pair(number);
                var found = switch (pair.grade()) {
                    case CORRECT -> "";
                    case MISSED -> problem("failure", pair, misses(pair));
                    case NO_RESULT -> problem("error", pair, List.of(error(pair.after())));
                    case NOT_JUDGED -> "<skipped/>";
                };
                out.write(tag("testcase", object("name", pair.id(), "classname", suite,
                        "time", pair.shown().two().seconds())) + found + "</testcase>\n");
            }
            out.write("</testsuite>\n");
            out.flush();
        }

        private static String problem(String name, Pair pair, List<String> lines) {
            return tag(name, object("type", pair.grade().key(), "message", Text.cut(lines.getFirst(), LONGEST)))
                    + xml(String.join("\n", lines)) + "</" + name + ">";
        }

        private static String tag(String name, Map<String, Object> attributes) {
            return attributes.entrySet().stream().map(one -> " " + one.getKey() + "=\"" + xml(one.getValue()) + '"')
                    .collect(joining("", "<" + name, ">"));
        }

        private static String xml(Object value) { // XML 1.0 has no escape for control characters
            return StringEscapeUtils.escapeXml10(Spreadsheet.withoutControls(value.toString()));
        }

        /// Returns a line for each check that is not met, such as `/answer: expected 2, found 3`. If nothing is
        /// expected, returns a line for each difference.
        private List<String> misses(Pair pair) {
            var checks = expected.missed(pair).stream().map(check ->
                    check.output() + ": expected " + check.value() + ", found " + check.second());
            var differences = pair.differences().stream().map(difference ->
                    difference.pointer() + ": first " + difference.first() + ", second " + difference.second());
            return (expected.isEmpty() ? differences : checks).toList();
        }

        /// Writes a page with all rows and marks their differences.
        void writePage(OutputStream out) throws IOException {
            var title = sides().map(side -> Text.joinFirst(3, side.batches().map(StatusView::title)));
            var about = sides().map(side -> side.name + ": " + side.batches()
                    .map(batch -> StatusView.headline(batch, Ansi.OFF)).collect(joining(", ")));
            var totals = new LinkedHashMap<String, Long>();
            if (isOne()) grades.forEach((grade, rows) -> totals.put(grade.word(), rows));
            else matches.forEach((match, rows) -> totals.put(match.word(), rows));
            WebPage.write(out, object("title", "Comparison: " + title.collect(joining(" and ")),
                    "about", about.collect(joining("; ")), "verdict", sentence(), "one", isOne(),
                    "totals", totals, "comparison", table(), "notes", notes()),
                    rows.size(), number -> row(pair(number)));
        }

        /// Returns a row of the page. It contains the outputs of both sides if they differ, otherwise the outputs of
        /// the first result that has any.
        private Map<String, Object> row(Pair pair) {
            Result one = pair.shown().one(), two = pair.shown().two();
            var end = one.end().outputs().isEmpty() ? two.end() : one.end();
            var changes = pair.outputs().stream().map(pointer -> object("name", pointer,
                    "change", JsonDiff.whole(one.at(pointer), two.at(pointer))));
            var row = object("id", pair.id(), "outcome", outcome(pair), "trend", pair.trend(),
                    "differs", pair.places(), "changes", changes.toList(), "expected", expected.checks(pair),
                    "seconds", one.seconds(), "second_seconds", two.seconds(),
                    "run", one.end().run(), "second_run", two.end().run(), "inputs", WebPage.values(end.inputs()),
                    "outputs", pair.outputs().isEmpty() ? WebPage.values(end.outputs()) : Map.of());
            row.putAll(pair.facts());
            return WebPage.prune(row);
        }

        private String outcome(Pair pair) {
            return isOne() ? pair.grade().word() : pair.match().word();
        }

        /// Returns the name and texts of each figure. With one side, it has only one text, because nothing is compared.
        private List<List<String>> table() {
            return figures.values().stream().map(figure -> isOne()
                    ? List.of(figure.name(), figure.text(figure.second())) : figure.texts()).toList();
        }

        /// Prints kinds of rows, figures, outputs and the rows that differ. The verdict comes last, where a long list
        /// cannot push it off the screen.
        void print(PrintWriter out, Ansi paint, boolean all) {
            sides().forEach(side -> side.batches().forEach(batch ->
                    out.println("%-8s".formatted(side.name) + StatusView.headline(batch, paint))));
            out.println();
            if (!isOne()) StatusView.bars(matches, 13, Match::word, (_, text) -> text).forEach(out::println);
            if (!isOne() && !expected.isEmpty()) out.println("\n  " + paint.faint("second, by expected value"));
            if (!expected.isEmpty()) StatusView.bars(grades, 13, Grade::word, (_, text) -> text).forEach(out::println);
            out.println();
            if (!isOne()) printFigure(List.of("", "first", "second", "difference", "95 % interval"), out, paint);
            table().forEach(figure -> printFigure(figure, out, paint));
            if (!outputs.isEmpty()) out.println();
            outputs.forEach((output, rows) -> out.println("  "
                    + paint.faint("%-24s".formatted("differ in " + Text.printable(output, 200)))
                    + String.format(Locale.ROOT, "%,8d", rows) + (rows == 1 ? " row" : " rows")));
            for (var note : notes()) out.println("\n  Note: " + note);
            int[] rows = unequal.stream().limit(all ? Long.MAX_VALUE : MAX_ROWS).toArray();
            for (int number : rows) print(pair(number), out, paint);
            int more = unequal.cardinality() - rows.length;
            if (more > 0) out.println("\n  … and " + Text.count(more, "more row") + " (--all)");
            if (rows.length == 0 && !isOne()) out.println("\nNothing differs.");
            out.println("\n" + sentence());
            out.flush();
        }

        private static void printFigure(List<String> figure, PrintWriter out, Ansi paint) {
            // if results are only checked, a line has a name and one text
            var format = figure.size() == 2 ? "%2$11s" : "%2$11s%3$11s    %4$-20s %5$s";
            out.println("  " + paint.faint("%-18s".formatted(figure.getFirst()))
                    + format.formatted(figure.toArray()).stripTrailing());
        }

        private void print(Pair pair, PrintWriter out, Ansi paint) {
            var words = new ArrayList<>(List.of(outcome(pair)));
            if (!isOne() && !expected.isEmpty()) words.addAll(List.of(pair.grade().word(), pair.trend()));
            var errors = Stream.of(error(pair.before()), error(pair.after())).distinct();
            out.println("\n  " + paint.bold(Text.id(pair.id())) + "  "
                    + words.stream().filter(word -> !word.isEmpty()).collect(joining(", "))
                    + errors.filter(error -> !error.isEmpty()).map(error -> ": " + Text.printable(error, LONGEST))
                            .collect(joining()));
            if (!expected.isEmpty() && pair.grade() == Grade.MISSED)
                misses(pair).forEach(miss -> out.println("    " + Text.printable(miss, 3 * LONGEST)));
            for (var difference : pair.differences()) { // printed as `the [-red-]{+blue+} one`, like git's word diff
                var change = scope.diff().change(difference);
                var first = Text.printable(change.first(), LONGEST);
                var second = Text.printable(change.second(), LONGEST);
                out.println("    " + paint.faint(Text.printable(difference.pointer(), LONGEST)) + "  "
                        + Text.printable(change.before(), LONGEST)
                        + (first.isEmpty() ? "" : paint.by(RowStatus.FAILED, "[-" + first + "-]"))
                        + (second.isEmpty() ? "" : paint.by(RowStatus.SUCCEEDED, "{+" + second + "+}"))
                        + Text.printable(change.after(), LONGEST));
            }
        }

        /// Writes JSON. `docs/compare.md` documents keys and order. Rows are written one by one to save memory, so the
        /// closing bracket of the head is cut off and follows the last row.
        void printJson(PrintWriter out) {
            var head = object();
            if (!isOne()) matches.forEach((match, rows) -> head.put(match.key(), rows));
            var named = object();
            figures.forEach((name, figure) -> named.put(name.replace(' ', '_'), figure.json()));
            head.putAll(object("inputs_differ", otherInputs, "outputs", outputs, "figures", named));
            if (!isOne()) head.put("verdict", verdict());
            var expectation = figures.get(decisive()).json();
            grades.forEach((grade, rows) -> expectation.put(grade.key(), rows));
            if (!expected.isEmpty()) head.put("expected", expectation);
            var text = Json.text(head);
            out.print(text.substring(0, text.length() - 1) + ",\"rows\":[");
            int[] rows = listed.stream().toArray();
            for (int i = 0; i < rows.length; i++) out.print((i > 0 ? "," : "") + Json.text(json(pair(rows[i]))));
            out.println("]}");
            out.flush();
        }

        /// Returns a row of `--json`. A value that is missing on one side has no key, unlike a `null` in the outputs.
        private Map<String, Object> json(Pair pair) {
            var json = object("id", pair.id(), "kind", pair.match().key(), "differences",
                    pair.differences().stream().map(difference -> WebPage.prune(object("pointer", difference.pointer(),
                            "first", difference.first().isMissingNode() ? null : difference.first(),
                            "second", difference.second().isMissingNode() ? null : difference.second()))).toList(),
                    "inputs_differ", pair.hasOtherInputs());
            json.putAll(pair.facts());
            if (!expected.isEmpty()) json.put("expected", expected.checks(pair));
            return WebPage.prune(json);
        }
    }

    /// Holds the cells of the input that outputs are checked against. Without rules, every success is as expected, so
    /// that a comparison needs no special case.
    ///
    /// @param cells     by row, the cells that are not blank, because a blank cell expects nothing
    /// @param tolerance null if numbers must be equal
    record Expectations(List<Rule> rules, Index index, List<Map<Rule, String>> cells, boolean hasDecimalComma,
            JsonDiff diff, BigDecimal tolerance) {
        /// Checks an output. If the cell is a regular expression (`isPattern`), the output's text must contain a match,
        /// otherwise the output must equal the cell.
        record Rule(String column, boolean isPattern, JsonPointer output) {
            private static final Pattern FORM = Pattern.compile("(.+?)(~?)=(/.*)", Pattern.DOTALL);

            static Rule of(String typed, Csv csv) {
                var option = "--expect " + Text.shell(typed);
                var match = FORM.matcher(typed);
                if (!match.matches() || !JsonDiff.POINTER.matcher(match.group(3)).matches()) throw new Unusable(option
                        + ": must be COLUMN=/POINTER or COLUMN~=/POINTER", "such as answer_expected=/answer");
                // people know a column by its title, but a row has the name that --map may have given to it
                var column = csv.inputs().stream().filter(input -> input.title().equals(match.group(1))).findFirst()
                        .orElseThrow(() -> csv.file().unusable(csv.header().line(), 0, option + ": no column "
                                + Text.quoted(match.group(1)), csv.header().hint()));
                return new Rule(column.name(), !match.group(2).isEmpty(), JsonPointer.compile(match.group(3)));
            }

            /// Returns the cell, and compiles a regular expression only to report a mistake with its line.
            private String cell(Row row, Csv csv) {
                var cell = row.inputs().get(column);
                try {
                    if (isPattern) Pattern.compile(cell);
                    return cell;
                } catch (PatternSyntaxException problem) {
                    throw csv.file().unusable(row.line(), csv.input(column).place(), "column " + Text.quoted(column)
                            + " is not a regular expression: " + Text.printable(problem.getDescription(), 100),
                            "use = for a text that must be equal");
                }
            }

            static Map<Rule, String> cells(List<Rule> rules, Row row, Csv csv) {
                var cells = new LinkedHashMap<Rule, String>();
                for (var rule : rules) cells.put(rule, rule.cell(row, csv));
                cells.values().removeIf(String::isBlank);
                return cells;
            }
        }

        /// Holds a rule that applies to a row, its expected value, and what its output contains on each side.
        record Check(String column, String output, String value, String first, String second) {}

        /// @param csv null if nothing is expected
        static Expectations of(Csv csv, List<String> typed, JsonDiff diff, BigDecimal tolerance) {
            var rules = typed.stream().map(rule -> Rule.of(rule, csv)).toList();
            var cells = new ArrayList<Map<Rule, String>>();
            var index = csv == null ? new Index() : Index.of(csv, row -> cells.add(Rule.cells(rules, row, csv)));
            // `decimal` is null unless it was chosen
            boolean hasDecimalComma = csv != null && Character.valueOf(',').equals(csv.shape().decimal());
            return new Expectations(rules, index, cells, hasDecimalComma, diff, tolerance);
        }

        boolean isEmpty() {
            return rules.isEmpty();
        }

        /// Returns the ids of the rows that have an expected value.
        Stream<String> judged() {
            return IntStream.range(0, index.size()).mapToObj(index::id).filter(this::isJudged);
        }

        Map<Rule, String> cells(String id) {
            int entry = index.find(id);
            return entry < 0 ? Map.of() : cells.get(entry);
        }

        /// Returns whether a row has an expected value. Without rules, every row is judged by its success.
        boolean isJudged(String id) {
            return isEmpty() || !cells(id).isEmpty();
        }

        boolean isMet(String id, LineOffsets.RowEnd end) {
            return cells(id).entrySet().stream().allMatch(expected ->
                    isMet(expected.getKey(), expected.getValue(), end.at(expected.getKey().output())));
        }

        /// Compares an output with a cell. A cell is text, so it is read as JSON if the output is not text. A tolerance
        /// also applies to text, because an answer may consist of a number.
        private boolean isMet(Rule rule, String cell, JsonNode output) {
            if (output.isMissingNode()) return false;
            var text = LineOffsets.RowEnd.text(output);
            if (rule.isPattern()) return isFound(Pattern.compile(cell), text);
            var number = hasDecimalComma && output.isNumber() ? Variable.withPoint(cell) : cell;
            var wanted = output.isTextual() ? TextNode.valueOf(cell) : Json.parse(number);
            return diff.of("", wanted, output).isEmpty() || tolerance != null && isNear(number, text);
        }

        private static boolean isFound(Pattern pattern, String text) {
            try {
                return pattern.matcher(text).find();
            } catch (StackOverflowError _) { // Java throws this if a repeated group has too much text
                throw new Unusable("--expect: the regular expression " + Text.quoted(pattern.pattern())
                        + " is too complex for an output of " + Text.count(text.length(), "character"),
                        "do not repeat a group, as in (a|b)*");
            }
        }

        private boolean isNear(String cell, String text) {
            try {
                var difference = new BigDecimal(cell.strip()).subtract(new BigDecimal(text.strip()),
                        MathContext.DECIMAL128); // limits the digits, because exponents may be huge
                return difference.abs().compareTo(tolerance) <= 0;
            } catch (ArithmeticException | NumberFormatException _) {
                return false; // one of them is not a number
            }
        }

        List<Check> checks(Comparison.Pair pair) {
            return checks(pair, (_, _) -> true);
        }

        /// Returns the checks that a result of the second side does not meet.
        List<Check> missed(Comparison.Pair pair) {
            return checks(pair, (rule, cell) -> !pair.after().stream().filter(Comparison.Result::isSuccess)
                    .allMatch(result -> isMet(rule, cell, result.end().at(rule.output()))));
        }

        private List<Check> checks(Comparison.Pair pair, BiPredicate<Rule, String> wanted) {
            var checks = new ArrayList<Check>();
            cells(pair.id()).forEach((rule, cell) -> {
                if (wanted.test(rule, cell)) checks.add(new Check(rule.column(), rule.output().toString(), cell,
                        found(rule, pair.before()), found(rule, pair.after())));
            });
            return checks;
        }

        /// Returns the values of a side's successes, each once, such as `4, 5`. A missing value is a dash.
        private static String found(Rule rule, List<Comparison.Result> side) {
            return side.stream().filter(Comparison.Result::isSuccess).map(result -> result.end().at(rule.output()))
                    .map(value -> value.isMissingNode() ? "–" : LineOffsets.RowEnd.text(value)).distinct()
                    .collect(joining(", "));
        }
    }

    /// Finds the differences between two JSON values.
    ///
    /// @param trim whether to ignore whitespace
    record JsonDiff(boolean trim) {
        static final Pattern POINTER = Pattern.compile("(/([^/~]|~[01])*)*"); // as in RFC 6901
        /// `MAX_DIFFERENCES` limits those of one output, because two long arrays may differ in every element. `CONTEXT`
        /// is in words beside a change, one or two lines of a terminal. `LONGEST` is in characters of an output on a
        /// page, so that a page with some huge outputs still opens.
        private static final int MAX_DIFFERENCES = 100, CONTEXT = 20, LONGEST = 100_000;
        /// Matches a word with the space after it. In scripts without spaces, each character is a word.
        private static final Pattern WORD = Pattern.compile(
                "(?:[\\p{L}\\p{M}\\p{N}_&&[^\\p{IsIdeographic}\\p{IsHiragana}\\p{IsKatakana}]]+|\\S)\\s*+|\\s+");

        /// Holds two values that differ at a pointer. One of them may be a missing node.
        ///
        /// @param pointer into the outputs
        record Difference(String pointer, JsonNode first, JsonNode second) {}

        /// Holds the words that two texts share at the beginning and the end, and the part of each text in between. One
        /// change per text is easy to read and fast to find, unlike a complete diff.
        record Change(String before, String first, String second, String after) {
            static Change of(String first, String second) {
                List<String> one = words(first), two = words(second);
                int head = alike(one, two);
                int tail = alike(one.subList(head, one.size()).reversed(), two.subList(head, two.size()).reversed());
                int end = one.size() - tail;
                return new Change(String.join("", one.subList(0, head)), String.join("", one.subList(head, end)),
                        String.join("", two.subList(head, two.size() - tail)),
                        String.join("", one.subList(end, one.size())));
            }

            Change shortened() {
                List<String> head = words(before), tail = words(after);
                return new Change(String.join("", head.subList(Math.max(0, head.size() - CONTEXT), head.size())),
                        first, second, String.join("", tail.subList(0, Math.min(CONTEXT, tail.size()))));
            }

            private static List<String> words(String text) {
                return WORD.matcher(text).results().map(MatchResult::group).toList();
            }

            /// Returns how many words at the beginning are the same.
            private static int alike(List<String> first, List<String> second) {
                int many = 0;
                while (many < Math.min(first.size(), second.size()) && first.get(many).equals(second.get(many))) many++;
                return many;
            }
        }

        /// Finds the differences below a pointer. Numbers are compared by value, objects regardless of the order of
        /// keys, and arrays by index. `path` returns a missing node for what only the other value has.
        List<Difference> of(String pointer, JsonNode first, JsonNode second) {
            var found = new ArrayList<Difference>();
            if (first.isObject() && second.isObject()) {
                var names = new LinkedHashSet<String>();
                Stream.of(first, second).forEach(node -> node.fieldNames().forEachRemaining(names::add));
                for (var name : names) found.addAll(of(pointer + pointer(name), first.path(name), second.path(name)));
            } else if (first.isArray() && second.isArray()) {
                for (int i = 0; i < Math.max(first.size(), second.size()); i++)
                    found.addAll(of(pointer + "/" + i, first.path(i), second.path(i)));
            } else if (!isSame(first, second)) found.add(new Difference(pointer, first, second));
            return found.subList(0, Math.min(found.size(), MAX_DIFFERENCES));
        }

        private boolean isSame(JsonNode first, JsonNode second) {
            // numbers are read as decimals, and a double is only NaN or infinite, which has no decimal value
            if (first.isNumber() && second.isNumber() && !first.isDouble() && !second.isDouble())
                return first.decimalValue().compareTo(second.decimalValue()) == 0;
            return first.getNodeType() == second.getNodeType() && text(first).equals(text(second));
        }

        /// Escapes a name as one step of a JSON pointer: `a/b` becomes `/a~1b`.
        static String pointer(String name) {
            return "/" + name.replace("~", "~0").replace("/", "~1");
        }

        private String text(JsonNode node) {
            if (!node.isTextual()) return node.toString();
            return trim ? node.textValue().strip().replaceAll("(?U)\\s+", " ") : node.textValue();
        }

        /// Shortens two texts for a terminal to the words around their difference.
        Change change(Difference difference) {
            JsonNode first = difference.first(), second = difference.second();
            boolean areTexts = first.isTextual() && second.isTextual();
            return areTexts ? Change.of(text(first), text(second)).shortened()
                    : new Change("", first.toString(), second.toString(), "");
        }

        /// Keeps both values for a page, each up to `LONGEST` characters.
        static Change whole(JsonNode first, JsonNode second) {
            return Change.of(readable(first), readable(second));
        }

        private static String readable(JsonNode value) {
            if (value.isMissingNode()) return "";
            return Text.cut(value.isTextual() ? value.textValue() : value.toPrettyString(), LONGEST);
        }
    }

    /// Colours text for a terminal. If it is off, text stays as it is. The codes are those of ANSI: 1 is bold, 2 faint,
    /// 31 red, 32 green, 33 yellow and 36 cyan.
    record Ansi(boolean on) {
        static final Ansi OFF = new Ansi(false);

        /// Uses colours only if standard output is an interactive terminal, so that a file contains no codes. Every
        /// start asks for this, and [Screen] would take 0.2 s to load.
        static Ansi of(Env env) {
            var console = System.console();
            return new Ansi(isWanted(env) && console != null && console.isTerminal());
        }

        static Ansi ofErr(Env env) {
            return new Ansi(isWanted(env) && Screen.on(2).isPresent());
        }

        /// Returns whether the user wants colours. By convention, any `NO_COLOR` turns them off, and a terminal that
        /// calls itself `dumb` has none.
        private static boolean isWanted(Env env) {
            return env.get("NO_COLOR").isEmpty() && !env.get("TERM").equals("dumb");
        }

        String bold(String text) {
            return paint("1", text);
        }

        String faint(String text) {
            return paint("2", text);
        }

        String by(RowStatus status, String text) {
            return paint(switch (status) {
                case SUCCEEDED -> "32";
                case PARTIAL, UNKNOWN -> "33";
                case FAILED -> "31";
                case PAUSED -> "36";
                case PENDING -> "2";
            }, text);
        }

        private String paint(String code, String text) {
            return on ? "\033[" + code + "m" + text + "\033[0m" : text;
        }
    }

    // ── Engine ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Runs the rows of an agenda to their outcomes. The calling thread owns everything that changes, so nothing is
    /// locked.
    static final class Engine {
        /// Limits the wait for the outcomes of runs that Dify was asked to stop, after the grace period. Dify reports a
        /// stopped run within about 0.3 s (`stop_race.json`); the rest is a margin for a slow server.
        private static final Duration STOP_TIMEOUT = Duration.ofSeconds(3);
        /// Limits that wait, and the wait for the disk, after a second signal, because the user does not want to wait.
        private static final Duration SECOND_STOP_TIMEOUT = Duration.ofMillis(1500);
        /// Limits the wait for running rows after Dify rejected the key. Users are promised an end within ten seconds
        /// (docs/pace.md), and the last writes need some of them.
        private static final Duration REJECTED_KEY_TIMEOUT = Duration.ofSeconds(7);
        /// Sets how often a slow disk is checked for. It must be well below [#SECOND_STOP_TIMEOUT], to which it adds.
        private static final Duration DISK_CHECK_INTERVAL = Duration.ofMillis(100);
        private final Terms terms;
        private final Agenda agenda;
        private final LookUpRules lookUpRules;
        private final Pace pace;
        private final Health health;
        private final StreamQueue queue;
        private final BatchWriter writer;
        final Tally tally;
        private final Watcher watcher;
        private final Ports ports;
        private final InstantSource clock;
        private final AtomicInteger interrupts = new AtomicInteger(); // any thread may add one, see [#interrupt]
        private final Map<Long, InFlight> inFlight = new LinkedHashMap<>(); // by the attempt's sequence number
        private final int looksAtOnce;
        private int looking = 0, probing = 0; // look-ups and probes without a response so far
        private Instant hardStop = Instant.MAX; // when a stopped session no longer waits for running rows
        /// Each becomes true when a notice or request that must not be repeated was sent.
        private boolean taskStopsSent = false, linksNoted = false, damageNoted = false, pricesNoted = false;
        private String version, lastPause = ""; // the workflow version of the last run, and the last pause reported
        private boolean hasStartedRuns = false; // true also if one may have started

        /// Holds the rules of a session, which decide without touching the outside world.
        record Terms(Judge judge, Limits limits, Pace pace, ModePolicy modes, Attempt.UserNames names) {}

        /// Holds what an engine needs of the world outside, so that tests can replace it. Workers and signals put
        /// messages into the mailbox, and the engine's thread takes them out.
        ///
        /// @param halt ends the process at once
        record Ports(Workflow workflow, Watcher watcher, InstantSource clock, BlockingQueue<Runnable> mailbox,
                Executor workers, Runnable halt) {
            /// Creates the ports of a real process. A virtual thread for each request costs little while it waits.
            static Ports ofProcess(Workflow workflow, Watcher watcher) {
                return new Ports(workflow, watcher, Times.neverBack(InstantSource.system(), System::nanoTime),
                        new LinkedBlockingQueue<>(), Thread::startVirtualThread,
                        () -> Runtime.getRuntime().halt(Exit.INTERRUPTED.code));
            }
        }

        /// Takes over from the batch's history what still counts in this session: figures, the newest stream that had
        /// begun and the last version of the workflow.
        Engine(Batch.Wanted wanted, Terms terms, BatchWriter writer, Ports ports) {
            this.ports = ports;
            this.watcher = ports.watcher();
            this.clock = ports.clock();
            this.terms = terms;
            this.agenda = new Agenda(wanted, terms.modes().app.firstLook(), clock.instant());
            this.lookUpRules = new LookUpRules(terms.judge(), terms.limits(), wanted.asked().resendUnknown());
            this.pace = terms.pace();
            this.health = new Health(terms.judge().backoff());
            this.queue = new StreamQueue(writer.batch().history().newestBegun(), clock.instant());
            this.writer = writer;
            this.tally = new Tally(wanted, pace, clock);
            writer.batch().history().count(tally);
            // each look-up needs one of the server's connections, and most of them are for new rows; with at least two
            // look-ups, a slow one does not hold up all others
            this.looksAtOnce = Math.max(2, pace.ceiling / 4);
            var versions = writer.batch().index().versions();
            this.version = versions.isEmpty() ? "" : versions.getLast();
        }

        /// Holds an attempt in flight. Its worker sets the volatile fields, and the engine's thread the others.
        private static final class InFlight {
            final Attempt attempt;
            volatile Thread thread; // to interrupt; null until the worker starts
            volatile Instant lastEvent; // of a stream
            Instant start; // TIMEOUT counts from the request, then from a stream's first event
            Instant lastLook = Instant.MIN;
            Optional<RunRef> run = Optional.empty();
            /// `isStreaming` is true from a stream's first event on, but not while files are downloaded. `lookedUp` is
            /// true while the stream's run is looked up, so that there is one look-up at a time.
            boolean isStreaming, stopAsked, lookedUp;

            InFlight(Attempt attempt) {
                this.attempt = attempt;
                this.start = attempt.at();
            }

            /// Returns whether a stream has had no event for `QUIET` since its request.
            boolean isSilent(Instant now) {
                return attempt.mode() == Mode.STREAMING && run.isEmpty() && !now.isBefore(start.plus(Transport.QUIET));
            }
        }

        /// Stops the session. May be called from any thread.
        void interrupt(String signal) {
            interrupts.incrementAndGet();
            ports.mailbox().add(() -> onInterrupt(signal));
        }

        /// Runs with Ctrl-C, SIGTERM and SIGHUP as interrupts, and completes the files whatever stopped the run. If the
        /// run and the last write both report a reason, the run's counts, because it came first.
        Optional<Stop> runUntilWritten() throws InterruptedException {
            var former = new LinkedHashMap<String, Object>(); // the shell needs its own handlers back
            for (var name : List.of("INT", "TERM", "HUP"))
                former.put(name, Signals.register(name, () -> interrupt(name)));
            var disk = Thread.startVirtualThread(this::watchDisk);
            try {
                var early = run();
                var unwritten = writer.finish();
                return early.isPresent() ? early : unwritten;
            } finally {
                disk.interrupt();
                former.forEach(Signals::unregister);
            }
        }

        /// Watches for a slow disk on a thread of its own. The engine's thread waits for the disk, so it can neither
        /// report that nor obey a second signal.
        void watchDisk() {
            try {
                for (boolean isSaid = false; ; Thread.sleep(DISK_CHECK_INTERVAL)) {
                    if (!isSaid && writer.isDiskSlow()) {
                        isSaid = true;
                        watcher.say("Waiting for a slow disk to save the results. Press Ctrl-C twice to stop at "
                                + "once; the next run resumes.");
                    }
                    boolean isStuck = writer.forcingFor().compareTo(SECOND_STOP_TIMEOUT) > 0;
                    if (interrupts.get() > 1 && isStuck) ports.halt().run(); // nothing else ends a wait for the disk
                }
            } catch (InterruptedException _) {
                // the session is over
            }
        }

        /// Returns why the batch stopped early, or empty if every row has its outcome. The order of the steps keeps the
        /// promises: results and log lines are written before they count, attempts are on disk before they are sent,
        /// and outcomes are on disk before they are shown.
        Optional<Stop> run() throws InterruptedException {
            try {
                checkLimits(); // earlier sessions may have used them up
                for (beforeEnd(); !isOver(); beforeEnd()) {
                    var starts = startDue();
                    writer.commit(clock.instant(), watcher::say); // writes the attempts and the last outcomes to disk
                    starts.forEach(this::send);
                    tally.tick(clock.instant(), new Tally.Activity(inFlight.size(), agenda.waiting(),
                            agenda.lookUps() + looking + silentStreams(clock.instant()), pauseNote(clock.instant())));
                    watcher.watch(tally);
                    var message = ports.mailbox().poll(untilNext().toNanos(), NANOSECONDS);
                    // all messages that wait share one write to disk, which takes far longer than they do
                    for (; message != null; message = ports.mailbox().poll()) message.run();
                    writer.write();
                    checkLimits();
                    notePrices();
                    health.verdict(clock.instant(), inFlight.size() + looking + probing).ifPresent(agenda::stopWith);
                }
                writer.recordStop(clock.instant(), agenda.stopReason());
            } catch (UncheckedIOException problem) { // of the results or the log: nothing can be recorded any more
                agenda.stopWith(writer.unwritable(problem.getCause()));
            }
            watcher.end();
            // if Dify refuses a setting only after runs have started, the command was usable, so the exit code is 4
            return agenda.stopReason().map(stop -> hasStartedRuns && stop.exit() == Exit.UNUSABLE
                    ? Stop.early(stop.what(), stop.hint()) : stop);
        }

        /// Looks once more for runs that counted as not started, when all rows have ended. After a stop and the grace
        /// period, asks Dify to stop the runs that are still active.
        private void beforeEnd() {
            var now = clock.instant();
            if (agenda.stopReason().isPresent()) {
                if (!inFlight.isEmpty() && !taskStopsSent && !hardStop.isAfter(now)) stopTasks(STOP_TIMEOUT);
            } else if (inFlight.isEmpty() && looking == 0) agenda.lookForLate(now);
        }

        /// Returns whether the session may end: everything is done or, after a stop, no running row is waited for.
        /// After a stop, look-ups are not waited for either, because the next session can repeat them.
        private boolean isOver() {
            if (agenda.stopReason().isEmpty()) return inFlight.isEmpty() && looking == 0 && agenda.isDone();
            return inFlight.isEmpty() || taskStopsSent && !hardStop.isAfter(clock.instant());
        }

        /// Adds every attempt that may start to the log and returns it. The attempts are sent when they are on disk,
        /// because an attempt that the log lacks would be sent and paid for again after a crash. Look-ups and probes
        /// cost nothing, so they leave at once.
        private List<InFlight> startDue() {
            var now = clock.instant();
            if (agenda.stopReason().isPresent()) return List.of();
            var starts = new ArrayList<InFlight>();
            while (health.isOpen(now) && hasRoom(now, now)) {
                var due = agenda.next(now);
                if (due.isEmpty()) break; // no row is due, or a changed CSV has just stopped the batch
                var row = due.get().row();
                var user = terms.names().next();
                var attempt = new Attempt(terms.names().count(), row, due.get().tries(), user,
                        terms.modes().mode(), row.hash(), now, row.isEdited());
                var sent = new InFlight(attempt);
                inFlight.put(attempt.sequence(), sent);
                pace.noteStart(now);
                writer.record(AttemptEvent.of(attempt, writer.resultsOnDisk()));
                agenda.markResent(row); // a run of an earlier attempt would now be paid for twice
                starts.add(sent);
            }
            lookUpSilent(now);
            while (looking < looksAtOnce && health.isOpen(now) && !agenda.nextLookDue().isAfter(now))
                look(agenda.takeLookUp());
            if (probing == 0 && !health.nextProbe().isAfter(now)) probe(now);
            return starts;
        }

        /// Returns whether a row may start. Unresolved runs keep their slots until the server responds, so that an
        /// outage leaves no more of them than there are slots.
        private boolean hasRoom(Instant when, Instant now) {
            // silent streams give up slots but stay open, so they need a limit of their own
            return pace.hasRoom(when, busySlots(now) + health.doubts()) && inFlight.size() < 2 * pace.ceiling;
        }

        /// Looks up streams without a first event. Such a stream may wait in the server's queue, but its run may also
        /// have ended unseen, as after a restart of Redis (Dify 1.16.1). The stream stays open meanwhile.
        private void lookUpSilent(Instant now) {
            for (var sent : inFlight.values()) {
                if (sent.lookedUp || !sent.isSilent(now) || now.isBefore(sent.lastLook.plus(Transport.QUIET))) continue;
                sent.lookedUp = true;
                // empty, because without an event the run's id is unknown
                agenda.lookUp(Unresolved.withoutWait(sent.attempt, Purpose.QUIET, Optional.empty(), now));
            }
        }

        private int silentStreams(Instant now) {
            return (int) inFlight.values().stream().filter(sent -> sent.isSilent(now)).count();
        }

        /// Asks the server for something that starts nothing. A row would become unresolved if no response came.
        private void probe(Instant now) {
            probing++;
            work(() -> {
                var failure = ports.workflow().probe();
                return () -> probed(failure, now);
            });
        }

        /// Takes the result of a probe from its worker.
        private void probed(Optional<Response> failure, Instant sent) {
            probing--;
            // even a refusal shows that the server responds
            if (failure.isEmpty() || new LookUpResult.Silent(failure.get()).isAnswer()) health.noteResponse(sent);
            else health.noteFailure(clock.instant(), sent);
            failure.ifPresent(response -> obeyPause(response, clock.instant()));
        }

        /// Sends the attempt on a worker thread. Its response comes back as a message.
        private void send(InFlight sent) {
            work(() -> {
                var response = answer(sent);
                return () -> onResponse(sent.attempt, response);
            });
        }

        /// Runs on a worker thread: sends the attempt, and passes on the events of its stream.
        private Response answer(InFlight sent) {
            // the engine's thread may be waiting for the disk, and then sees a signal later than this thread
            if (agenda.stopReason().isPresent() || interrupts.get() > 0)
                return new Response.NotSent("not sent: the batch was stopping", "");
            sent.thread = Thread.currentThread();
            return ports.workflow().run(sent.attempt, heard -> {
                if (!(heard instanceof StreamEvent.Idle)) sent.lastEvent = clock.instant();
                // only a live view gets the texts, because the texts of all rows would be too much for the mailbox
                if (watcher.isLive() || !(heard instanceof StreamEvent.Live || heard instanceof StreamEvent.OtherEvent))
                    ports.mailbox().add(() -> onStreamEvent(sent, heard));
            });
        }

        /// Looks a run up on a worker thread. If the run is to be stopped first, the log records that before, so that
        /// it shows who stopped the run.
        private void look(Unresolved unresolved) {
            if (hasEnded(unresolved)) return; // its stream ended while it waited for this look-up
            var now = clock.instant();
            looking++;
            if (unresolved.stopsFirst())
                writer.record(new StopEvent(now, StopEvent.TIMED_OUT, unresolved.attempt().user(),
                        unresolved.run().get().task(), writer.resultsOnDisk()));
            work(() -> {
                var found = ports.workflow().look(unresolved);
                return () -> onLookUpResult(unresolved, found, now);
            });
        }

        /// Runs `work` on a worker thread, and the action that it returns on the engine's thread. An error of the
        /// worker is thrown on the engine's thread, because the session would wait for a lost message forever.
        private void work(Supplier<Runnable> work) {
            ports.workers().execute(() -> {
                Runnable then;
                try {
                    then = work.get();
                } catch (OutOfMemoryError problem) { // unwrapped, because it is reported to the user with a remedy
                    then = () -> {
                        throw problem;
                    };
                } catch (Throwable problem) {
                    then = () -> {
                        throw new IllegalStateException("a worker thread failed", problem);
                    };
                }
                ports.mailbox().add(then);
            });
        }

        /// Returns how long the engine may wait for a message, until something is due without one.
        private Duration untilNext() {
            var now = clock.instant();
            var redrawn = now.plusMillis(200); // five updates of the progress line a second are enough to look live
            // a look-up that has to wait for another one starts with that one's message
            var nextLook = looking < looksAtOnce
                    ? Collections.max(List.of(agenda.nextLookDue(), health.opens())) : Instant.MAX;
            var next = Collections.min(agenda.stopReason().isPresent() ? List.of(redrawn, hardStop)
                    : List.of(redrawn, nextStart(now), nextLook, probing > 0 ? Instant.MAX : health.nextProbe()));
            // at least 1 ms, so that something that is due but cannot start does not make the loop spin
            return Duration.between(now, next).isPositive() ? Duration.between(now, next) : Duration.ofMillis(1);
        }

        /// Returns when a row may start next. If no slot is free, returns `Instant.MAX`, because a message will end the
        /// wait.
        private Instant nextStart(Instant now) {
            return !hasRoom(Instant.MAX, now) ? Instant.MAX
                    : Collections.max(List.of(agenda.nextRowDue(now), pace.nextStart(), health.opens()));
        }

        /// Returns why nothing seems to happen, for the progress line: a pause, or the time until the next start.
        private Optional<String> pauseNote(Instant now) {
            if (agenda.stopReason().isPresent()) return Optional.empty();
            var next = inFlight.isEmpty() ? nextStart(now) : now; // with a running row, the line moves anyway
            return health.pauseNote(now).or(() -> next.isAfter(now) && next.isBefore(Instant.MAX)
                    ? Optional.of("next start in " + Text.seconds(Duration.between(now, next)))
                    : Optional.empty());
        }

        /// Returns how many slots are taken. A stream that sends only pings for `patience` may have lost its worker,
        /// and would keep its slot until `TIMEOUT`. Together with runs that were cut off, such streams therefore hold
        /// only the slots that [Pace#held] leaves them.
        private int busySlots(Instant now) {
            int quiet = (int) inFlight.values().stream().filter(sent -> sent.isStreaming
                    && now.isAfter(sent.lastEvent.plus(pace.patience()))).count();
            return inFlight.size() - quiet + pace.held(agenda.cutRuns(), quiet, now);
        }

        /// Returns how many runs may be active on the server, including those that were cut off.
        private int runsOnServer() {
            return inFlight.size() + agenda.cutRuns().size();
        }

        /// Takes an event of a stream from its worker. A live view gets the events that it displays. The other events
        /// concern the log, the time limit and the pace.
        private void onStreamEvent(InFlight sent, StreamEvent heard) {
            var attempt = sent.attempt;
            boolean isOpen = inFlight.containsKey(attempt.sequence()); // false if a look-up has ended the attempt
            switch (heard) {
                case StreamEvent.Uploaded _ -> {
                    sent.start = clock.instant(); // the request follows, and an upload may take long
                }
                // one case for each, so that the compiler reports an event that is added later
                case StreamEvent.NodeBegan node -> watcher.onStreamEvent(node);
                case StreamEvent.NodeEnded node -> watcher.onStreamEvent(node);
                case StreamEvent.Chunk text -> watcher.onStreamEvent(text);
                case StreamEvent.OtherEvent _ -> {}
                case StreamEvent.Form(var run, var node, var token, var until) -> writer.record(new FormEvent(
                        clock.instant(), attempt.row().id(), attempt.user(), run, node, token,
                        until.map(Times::text).orElse("")));
                case StreamEvent.Finished(var run, var recorded) -> {
                    sent.isStreaming = false; // no events come during the downloads, which is not a worker's silence
                    if (isOpen) logRun(sent, run);
                    writer.write();
                    recorded.complete(null); // the worker waits for the log before it downloads
                }
                case StreamEvent.Began _, StreamEvent.Idle _ when !isOpen -> {}
                case StreamEvent.Began(var run) -> {
                    var waited = Duration.between(sent.start, clock.instant());
                    sent.start = clock.instant();
                    sent.isStreaming = true;
                    logRun(sent, run);
                    health.noteResponse(attempt.at());
                    queue.noteStart(attempt);
                    noteWait(attempt, waited, "first event after %s");
                    if (taskStopsSent) stopTask(sent); // its task was unknown when the other runs were stopped
                }
                case StreamEvent.Idle(var run) -> { // its run may have ended, although the stream is still open
                    var quiet = Unresolved.withoutWait(attempt, Purpose.QUIET, Optional.of(run), clock.instant());
                    if (!sent.lookedUp)
                        agenda.lookUp(quiet.with(quiet.state().withStart(Optional.of(sent.start), Instant.MAX)));
                    sent.lookedUp = true;
                }
            }
        }

        /// Logs a run once, so that a later session can look it up by its id. The id comes from the run's stream, or
        /// from a response without an outcome.
        private void logRun(InFlight sent, RunRef run) {
            if (sent.run.isPresent()) return;
            sent.run = Optional.of(run);
            writer.record(new RunEvent(clock.instant(), sent.attempt.row().id(), sent.attempt.user(), run.id(),
                    run.task()));
        }

        /// Slows down if a run waited before it started. Streams that have had an event count as running. Nothing shows
        /// when a blocking run starts, so a blocking request counts as running if it was sent well before this one.
        ///
        /// @param why contains `%s` for the time; it is filled in only if the run has waited, because most have not
        private void noteWait(Attempt attempt, Duration waited, String why) {
            // a tenth earlier, because requests that left together with this one may be waiting, too
            var before = clock.instant().minus(waited.plus(waited.dividedBy(10)));
            int active = (int) inFlight.values().stream().filter(other -> other.attempt.mode() == Mode.STREAMING
                    ? other.isStreaming : other.attempt.at().isBefore(before)).count();
            if (attempt.mode() == Mode.BLOCKING) active++; // the run that has just ended
            if (pace.cutIfQueued(waited, attempt.sequence(), active, terms.names().count()))
                recordThrottle(attempt, why.formatted(Text.seconds(waited)));
        }

        private void recordThrottle(Attempt attempt, String why) {
            writer.record(new ThrottleEvent(clock.instant(), attempt.user(), why, pace.slots()));
        }

        /// Takes the response to an attempt from its worker: adapts the pace and the mode, then does what the [Judge]
        /// decides for the row.
        private void onResponse(Attempt attempt, Response response) {
            var sent = inFlight.remove(attempt.sequence());
            if (sent == null) return; // a look-up has found its run's end before
            var now = clock.instant();
            pace.noteEnd(now);
            // a stop of ours shows nothing about the row or the server, and the next session sends the row again
            if (response instanceof Response.Ran ran && sent.stopAsked && ran.isStop()) {
                logEnd(attempt, "interrupted", ran, "stopped on request");
                return;
            }
            adjustPace(attempt, response, now);
            var verdict = terms.judge().verdict(attempt, response);
            // only these verdicts mean that no run can have started
            hasStartedRuns |= !(verdict instanceof Verdict.StopBatch || verdict instanceof Verdict.Unreached
                    || verdict instanceof Verdict.Throttled);
            if (verdict instanceof Verdict.LookUp) response.run().ifPresent(run -> logRun(sent, run));
            else if (response instanceof Response.Ran ran) watcher.onRun(ran);
            carryOut(attempt, sent.start, response, verdict);
            obeyPause(response, now); // last, because the first reason to stop is the one that counts
        }

        /// Logs the end of an attempt that leaves its row without an outcome.
        private void logEnd(Attempt attempt, String end, Response response, String why) {
            var now = clock.instant();
            if (!writer.batch().history().isClosed(attempt, end)) // otherwise an earlier session recorded it
                writer.record(EndEvent.of(attempt, now, end, response, why, writer.resultsOnDisk()));
        }

        /// Obeys a pause that the server asks for. It holds for the whole session.
        private void obeyPause(Response response, Instant now) {
            var pause = Backoff.Pause.of(response, now);
            if (pause.isEmpty() || agenda.stopReason().isPresent()) return;
            pause.get().stop().ifPresent(agenda::stopWith);
            if (agenda.stopReason().isPresent()) return;
            var text = pause.get().text();
            health.pause(pause.get().until());
            if (!text.equals(lastPause)) watcher.say(text);
            lastPause = text;
        }

        /// Adapts concurrency, the server's health and the mode to a response. This does not depend on the row: even a
        /// failed run shows that the server can run rows.
        private void adjustPace(Attempt attempt, Response response, Instant now) {
            var took = Duration.between(attempt.at(), now);
            if (response instanceof Response.Ran ran) {
                pace.noteRunTime(ran.usage().within(took), now);
                ran.waited().ifPresent(waited -> noteWait(attempt, waited, "waited %s in the server's queue"));
                if (!ran.isBare()) queue.noteStart(attempt); // after a made-up end, its run may still wait
            }
            switch (response) {
                case Response.Ran _, Response.Unreadable _ -> {
                    pace.noteSuccess();
                    health.noteSuccess(attempt.at());
                }
                // a 5xx may come from a proxy or a crash after the run has started
                case Response.Refused refused when refused.status() >= 500
                        && !refused.inStream() -> health.noteUnseenEnd(now, attempt.at());
                case Response.Refused _ -> health.noteResponse(attempt.at());
                // the file itself was rejected, so the server responds
                case Response.NotUploaded file when !file.mayPass() -> health.noteResponse(attempt.at());
                case Response.Cut _ -> health.noteUnseenEnd(now, attempt.at());
                case Response.NotSent _, Response.NotUploaded _ -> health.noteFailure(now, attempt.at());
            }
            terms.modes().observe(response, took).ifPresent(change -> {
                var mode = terms.modes().mode();
                terms.limits().costUnavailable(mode).ifPresentOrElse(agenda::stopWith, () -> {
                    watcher.say(change);
                    // logged like a new session, so that later sessions continue in this mode
                    var session = writer.batch().history().last(SessionEvent.class).orElseThrow();
                    writer.record(session.with(now, mode, session.auto(), writer.resultsOnDisk()));
                });
            });
        }

        /// Does what was decided about an attempt. Only retries of failures count against `MAX_RETRIES`, because a row
        /// is not at fault if the server was full or not reached.
        ///
        /// @param start the instant from which the run's time limit counts
        private void carryOut(Attempt attempt, Instant start, Response response, Verdict verdict) {
            var now = clock.instant();
            switch (verdict) {
                case Outcome outcome -> finishRow(attempt, response, outcome, now);
                case Verdict.Again(var after, var why) -> {
                    // one more failure, and no throttle; empty, because no attempt was looked up just before
                    agenda.schedule(attempt.row(), attempt.tries().plus(1, 0), now.plus(after), Optional.empty());
                    logEnd(attempt, "again", response, why);
                }
                case Verdict.Throttled(var after, var why) -> {
                    pace.cutAfterRefusal(attempt.sequence(), runsOnServer(), terms.names().count());
                    // runs that were cut off hold slots on the server, so other rows would be refused in turn
                    if (runsOnServer() > busySlots(now)) pace.noneBefore(now.plus(after));
                    health.noteRefusal(now, runsOnServer());
                    recordThrottle(attempt, why);
                    // no failure, but one more throttle, which only makes the next wait longer
                    agenda.schedule(attempt.row(), attempt.tries().plus(0, 1), now.plus(after), Optional.empty());
                    logEnd(attempt, "throttled", response, why);
                }
                case Verdict.Unreached(var after, var why) -> {
                    agenda.schedule(attempt.row(), attempt.tries(), now.plus(after), Optional.empty());
                    logEnd(attempt, "unreached", response, why);
                }
                case Verdict.LookUp(var symptom, var why) -> {
                    if (agenda.stopReason().isPresent()) return; // the next session looks it up
                    // a run that timed out has used up its time, but is looked up once before it is stopped
                    var deadline = symptom == Symptom.TIMED_OUT ? now : start.plus(terms.limits().timeout());
                    var since = symptom == Symptom.STREAM_SILENT ? attempt.at() : now; // silent since the request
                    agenda.lookUpFirst(new Unresolved(attempt, response, symptom, why, since, deadline), now);
                }
                case Verdict.StopBatch(var stop, var isShutOut) -> {
                    logEnd(attempt, "refused", response, stop.what());
                    stopAll(stop, isShutOut);
                }
            }
        }

        /// Stops the batch, because the server refuses all of it. If the server no longer accepts the key (the app was
        /// deleted), the outcomes of running rows may never arrive. Outcomes of the next seconds count, and a later
        /// session looks the other runs up.
        private void stopAll(Stop stop, boolean isShutOut) {
            agenda.stopWith(stop);
            if (!isShutOut || taskStopsSent) return;
            taskStopsSent = true; // requests to stop would be refused, too
            hardStop = clock.instant().plus(REJECTED_KEY_TIMEOUT);
        }

        /// Stops the batch if a limit is reached. When no row is left to send, only `--max-failures` stops the batch,
        /// because the other limits exist to save what further rows would cost.
        private void checkLimits() {
            terms.limits().tooManyFailed(tally.count(RowStatus.FAILED), tally.done()).ifPresent(agenda::stopWith);
            if (agenda.nextRowDue(clock.instant()).equals(Instant.MAX)) return; // nothing is left to send
            terms.limits().limitReached(writer.batch().figures().spending(), tally.ownSpending)
                    .ifPresent(agenda::stopWith);
            // a row that succeeded shows that the workflow and its settings can work
            if (writer.batch().index().succeeded() == 0)
                terms.limits().sameCause(tally.causes(), tally.done()).ifPresent(agenda::stopWith);
        }

        /// Says once how to see what the runs cost. Says nothing if the user chose the mode or runs the demo, which is
        /// free.
        private void notePrices() {
            if (pricesNoted || !tally.ownSpending.lacksPrices()) return;
            pricesNoted = true;
            boolean isOurChoice = writer.batch().history().last(SessionEvent.class)
                    .filter(session -> session.auto() && !session.baseUrl().equals("demo")).isPresent();
            if (isOurChoice && terms.modes().mode() == Mode.BLOCKING)
                watcher.say("Note: Dify reports prices only in streams; --mode streaming shows what the runs cost.");
        }

        /// Records the row's outcome, which counts when it is written. A success is one line of the results, and any
        /// other outcome one line of the log, so that no outcome can be in both.
        private void finishRow(Attempt attempt, Response response, Outcome outcome, Instant now) {
            var files = response instanceof Response.Ran ran ? ran.files().orElse(Response.SavedFiles.NONE)
                    : Response.SavedFiles.NONE;
            var ended = now.minus(files.took()); // the downloads are not part of the run's time
            var took = attempt.took(response, ended);
            if (response instanceof Response.Ran ran && outcome.status().isSuccess())
                writer.recordSuccess(new Results.Success(attempt, ran, ended, took, files));
            else writer.recordEnd(EndEvent.of(attempt, now, outcome.status().word(), response, outcome.text(),
                    writer.resultsOnDisk()));
            watcher.onOutcome(attempt.row(), outcome);
            if (response instanceof Response.Ran ran) noteOnce(Text.id(attempt.row().id()), ran);
        }

        /// Reports each new version of the workflow. Reports a damaged character and links that expire only once,
        /// because other rows will probably have them, too.
        private void noteOnce(String id, Response.Ran ran) {
            var former = version;
            if (!ran.workflowId().isEmpty()) version = ran.workflowId();
            if (!former.isEmpty() && !former.equals(version)) watcher.say("The workflow's version changed "
                    + "within this batch, from " + former + " to " + version + ". --workflow-id " + former
                    + " pins the earlier one.");
            if (!damageNoted && Json.hasText(ran.outputs(), text -> Json.wellFormed(text).contains("\uFFFD"))) {
                damageNoted = true;
                watcher.say("The outputs of row " + id + " contain U+FFFD, which replaces a damaged character "
                        + "such as half an emoji.");
            }
            if (linksNoted || !ran.status().isSuccess() || ran.files().isPresent()) return;
            linksNoted = Json.hasText(ran.outputs(), "__dify__file__"::equals);
            if (linksNoted) watcher.say("The outputs contain links to files that expire within minutes; "
                    + "--save-files DIR downloads them.");
        }

        /// Takes a look-up's result from its worker. Notes what it shows about the server, then takes the steps that
        /// the [LookUpRules] decide for the row. If a `QUIET` look-up finds the run's end, the end replaces the silent
        /// stream, whose worker is interrupted.
        private void onLookUpResult(Unresolved unresolved, LookUpResult found, Instant sent) {
            looking--;
            agenda.release(unresolved);
            var attempt = unresolved.attempt();
            var now = clock.instant();
            if (found instanceof LookUpResult.Silent silent && !silent.isAnswer()) health.noteFailure(now, sent);
            else health.noteResponse(sent);
            if (found.isThere()) queue.noteStart(attempt);
            if (found instanceof LookUpResult.Absent) queue.noteAbsent(attempt, now);
            if (found instanceof LookUpResult.Running) terms.modes().noteListedRunning(unresolved);
            if (found instanceof LookUpResult.Ended(var ran, _)) watcher.onRun(ran);
            writer.record(new LookEvent(now, attempt.user(), unresolved.run().map(RunRef::id).orElse(""),
                    found.word()));
            if (unresolved.is(Symptom.RECHECK) && found.isThere()) {
                if (agenda.isLate(attempt)) recordLate(attempt, found);
                agenda.noteAppeared(attempt);
            }
            if (!hasEnded(unresolved)) { // otherwise the stream's own end came first
                var steps = lookUpRules.steps(unresolved, found, lookUpContext(unresolved), now);
                if (unresolved.is(Purpose.QUIET)) {
                    inFlight.get(attempt.sequence()).lookedUp = false;
                    inFlight.get(attempt.sequence()).lastLook = now;
                }
                if (unresolved.is(Purpose.QUIET) && found instanceof LookUpResult.Ended) {
                    pace.noteEnd(now); // the run has ended, although its stream did not report it
                    var worker = inFlight.remove(attempt.sequence()).thread;
                    if (worker != null) worker.interrupt(); // null if the worker has not begun
                }
                takeSteps(unresolved, steps);
            }
            // last, because the first reason to stop is the one that counts
            if (found instanceof LookUpResult.Silent(var response)) obeyPause(response, now);
        }

        /// Records a run that was found although its row was sent again. The exit code is then 3, because the row may
        /// have been paid for twice.
        private void recordLate(Attempt attempt, LookUpResult found) {
            var run = found.run().orElse(RunRef.NONE);
            writer.record(new LateEvent(clock.instant(), attempt.row().id(), attempt.user(), run.id(), found.word()));
            watcher.say("Row " + Text.id(attempt.row().id()) + ": " + run.name()
                    + " was found after the row was sent again; you may have paid for the row twice.");
        }

        /// Returns whether the stream of a `QUIET` look-up has ended, so that the look-up no longer matters.
        private boolean hasEnded(Unresolved unresolved) {
            return unresolved.is(Purpose.QUIET) && !inFlight.containsKey(unresolved.attempt().sequence());
        }

        /// Collects what this session knows about an attempt, for the rules.
        private LookUpRules.LookUpContext lookUpContext(Unresolved unresolved) {
            if (unresolved.is(Purpose.LATE)) writer.write(); // so that a success just found by a look-up counts
            var sent = inFlight.get(unresolved.attempt().sequence());
            return new LookUpRules.LookUpContext(terms.modes().listing(unresolved.attempt()),
                    queue.passedSince(unresolved.attempt()), hasStreamsToCome(),
                    sent != null && sent.stopAsked,
                    writer.status(unresolved.attempt().row()).isSuccess());
        }

        /// Returns whether this session will still send streams, or waits for the first event of some that it sent.
        private boolean hasStreamsToCome() {
            return terms.modes().mode() == Mode.STREAMING
                    && (agenda.hasRows() || inFlight.values().stream().anyMatch(sent -> !sent.isStreaming));
        }

        /// Does what the rules decided, in this order.
        private void takeSteps(Unresolved unresolved, List<LookUpRules.Step> steps) {
            var attempt = unresolved.attempt();
            for (var step : steps) switch (step) {
                case LookUpRules.Step.Take(var sent, var ran, var verdict) -> {
                    // the summary counts results that were recovered without another run
                    writer.record(new HarvestEvent(clock.instant(), attempt.user(), ran.ref().id()));
                    carryOut(sent, unresolved.start(), ran, verdict);
                }
                case LookUpRules.Step.Judged(var response, var verdict) ->
                        carryOut(attempt, unresolved.start(), response, verdict);
                case LookUpRules.Step.LookAgain(var next) -> agenda.lookUp(next);
                case LookUpRules.Step.Say(var text) -> watcher.say(text);
                case LookUpRules.Step.Close(var end, var response, var why) -> {
                    logEnd(attempt, end, response, why);
                    // a run may still appear, so it is looked for before the row is sent again
                    if (response instanceof Response.Cut && response.run().isEmpty()) agenda.addUnseen(attempt);
                }
                case LookUpRules.Step.SendAgain(var tries, var rechecked) -> {
                    // with `--resend-unknown`, the user accepts that another attempt may have started a run, too
                    if (rechecked && !unresolved.is(Purpose.RESEND))
                        agenda.enqueue(attempt.row(), tries, clock.instant());
                    else agenda.schedule(attempt.row(), tries, clock.instant(),
                            rechecked ? Optional.of(attempt) : Optional.empty());
                }
                case LookUpRules.Step.Abort(Verdict.StopBatch(var stop, var isShutOut)) -> stopAll(stop, isShutOut);
            }
        }

        /// Stops starting rows at the first signal, and gives running rows the grace period. At the second signal, asks
        /// Dify to stop them.
        private void onInterrupt(String signal) {
            var grace = terms.limits().grace();
            if (agenda.stopReason().filter(stop -> stop.exit() == Exit.INTERRUPTED).isPresent()) {
                stopTasks(SECOND_STOP_TIMEOUT);
                return;
            }
            agenda.stopWith(new Stop(Exit.INTERRUPTED,
                    signal.equals("INT") ? "interrupted" : "interrupted by SIG" + signal, ""));
            // a rejected key may have set an earlier time
            hardStop = Collections.min(List.of(hardStop, clock.instant().plus(grace)));
            if (!inFlight.isEmpty() && grace.isPositive()) watcher.say("Stopping. "
                    + Text.count(inFlight.size(), "running row has", "running rows have") + " up to "
                    + Text.seconds(grace) + " to finish; Ctrl-C again stops at once.");
        }

        /// Asks Dify to stop the runs in flight, and waits up to `patience` for their outcomes. Does not wait if no run
        /// can be stopped, because the tasks of blocking runs are unknown. The next session looks such runs up.
        private void stopTasks(Duration patience) {
            if (!taskStopsSent) inFlight.values().forEach(this::stopTask);
            taskStopsSent = true;
            boolean anyEnds = inFlight.values().stream().anyMatch(sent -> sent.stopAsked);
            hardStop = anyEnds ? clock.instant().plus(patience) : clock.instant();
        }

        /// Asks Dify to stop a run, once. The log records that before, so that a later session sends the row again
        /// instead of taking the stop for the row's failure.
        private void stopTask(InFlight sent) {
            var run = sent.run.orElse(RunRef.NONE);
            if (sent.stopAsked || run.task().isEmpty()) return;
            sent.stopAsked = true;
            writer.record(new StopEvent(clock.instant(), StopEvent.INTERRUPTED, sent.attempt.user(), run.task(),
                    writer.resultsOnDisk()));
            ports.workers().execute(() -> ports.workflow().stop(run, sent.attempt.user()));
        }

        /// Follows a session: the progress of a batch, or a retry in the shell. The engine's thread calls it. Other
        /// threads call only [#isLive] and [#say].
        interface Watcher {
            /// Receives the figures, about five times a second.
            default void watch(Tally tally) {}

            /// Returns whether nodes and texts are shown while a run is active.
            default boolean isLive() {
                return false;
            }

            default void onStreamEvent(StreamEvent.Live event) {}

            /// Receives a run that has ended, from its response or a look-up, before its row's outcome is reported.
            default void onRun(Response.Ran ran) {}

            default void onOutcome(Row row, Outcome outcome) {}

            void say(String sentence);

            /// Reports that the session is over, so that a progress line can be ended.
            void end();
        }
    }

    /// Holds rows not started yet, rows that wait for another attempt, and runs to look up, each with its time. Only
    /// the engine's thread uses it, except for [#stopReason].
    static final class Agenda {
        private final Queue<Unresolved> lookUps = new PriorityQueue<>(Comparator.comparing(Unresolved::due)
                .thenComparing(unresolved -> unresolved.attempt().at())); // the oldest attempt first
        private final Queue<Waiting> waiting = new PriorityQueue<>(Comparator.comparing(Waiting::due));
        private final Iterator<Row> rows; // reads the CSV as the session goes, because it may not fit into memory
        private Optional<Row> fresh = Optional.empty(); // the next row that was not sent yet
        private final Duration firstLook;
        /// Holds, by row, when a run was cut off that may still hold a slot on the server.
        private final Map<Integer, Instant> cutRuns = new HashMap<>();
        /// Holds the attempts of each row whose run has not appeared but still may.
        private final Map<Integer, List<Attempt>> unseen = new LinkedHashMap<>();
        private final Set<String> resentUsers = new HashSet<>(); // users of those attempts whose row was sent again
        private boolean lateAsked = false; // whether the last look-ups, see [#lookForLate], have begun
        private volatile Optional<Stop> stopReason = Optional.empty(); // workers read it, too

        /// Holds a row that is sent when it is due.
        record Waiting(Row row, Attempt.Tries tries, Instant due) {}

        /// Takes over what earlier sessions left: attempts whose runs may still appear, and unresolved attempts.
        ///
        /// @param firstLook how long the first look-up of an unresolved attempt waits
        /// @param now       the session's start. Earlier sessions sent before it, even if the clock was set back since
        Agenda(Batch.Wanted wanted, Duration firstLook, Instant now) {
            var batch = wanted.batch();
            this.rows = batch.csv().orElseThrow().rows(wanted.fresh(), batch.index()::fingerprint);
            this.firstLook = firstLook;
            readRow();
            for (boolean hasRun : List.of(false, true))
                for (var attempt : batch.history().resent(hasRun)) {
                    addUnseen(attempt.before(now));
                    // attempts with a run are added later, so they are not marked: their runs were reported before
                    if (!hasRun) markResent(attempt.row());
                }
            // the log contains only ids, so the cells are read from the CSV
            if (!unseen.isEmpty()) batch.rows(unseen::containsKey).forEachRemaining(row ->
                    unseen.get(row.index()).replaceAll(attempt -> attempt.with(row, attempt.tries())));
            wanted.lookUps().forEach(unresolved -> lookUpFirst(unresolved.before(now), now));
        }

        /// Takes the next row that is due. Rows that wait for another attempt go before rows that were not sent yet, so
        /// that a row is completed soon after its first attempt.
        Optional<Waiting> next(Instant now) {
            while (nextWaitingDue().isAfter(now) && fresh.isPresent()) {
                // as for an attempt that is repeated, because an earlier session may have left unseen attempts
                schedule(fresh.get(), Attempt.Tries.NONE, now, Optional.empty());
                readRow();
            }
            return nextWaitingDue().isAfter(now) ? Optional.empty() : Optional.of(waiting.remove());
        }

        /// Reads one row ahead, so that [#hasRows] is known. If the CSV has changed, no more rows start, because the
        /// other rows may no longer be those that were checked.
        private void readRow() {
            try {
                fresh = rows.hasNext() ? Optional.of(rows.next()) : Optional.empty();
            } catch (Unusable changed) {
                fresh = Optional.empty();
                stopWith(Stop.early(changed.what(), changed.hint));
            }
        }

        private Instant nextWaitingDue() {
            return waiting.isEmpty() ? Instant.MAX : waiting.peek().due();
        }

        int waiting() {
            return waiting.size();
        }

        int lookUps() {
            return lookUps.size();
        }

        Unresolved takeLookUp() {
            return lookUps.remove();
        }

        Collection<Instant> cutRuns() {
            return Collections.unmodifiableCollection(cutRuns.values());
        }

        Optional<Stop> stopReason() {
            return stopReason;
        }

        Instant nextLookDue() {
            return lookUps.isEmpty() ? Instant.MAX : lookUps.peek().due();
        }

        /// Schedules another attempt. Runs of earlier attempts that may still appear are looked up first, one by one,
        /// because a run that has appeared meanwhile makes another attempt unnecessary.
        ///
        /// @param after the attempt that was looked up last; empty to begin with the first
        void schedule(Row row, Attempt.Tries tries, Instant due, Optional<Attempt> after) {
            var earlier = unseen.getOrDefault(row.index(), new ArrayList<>());
            int next = 1 + after.map(one -> earlier.stream().map(Attempt::user).toList()
                    .indexOf(one.user())).orElse(-1); // 0 without `after`
            if (next == earlier.size()) enqueue(row, tries, due);
            else lookUps.add(Unresolved.withoutWait(earlier.get(next).with(row, tries), Purpose.RESEND,
                    Optional.empty(), due));
        }

        void enqueue(Row row, Attempt.Tries tries, Instant due) {
            waiting.add(new Waiting(row, tries, due));
        }

        /// Adds an unresolved attempt. Its first look-up waits, see [AppKind#firstLook].
        void lookUpFirst(Unresolved unresolved, Instant now) {
            lookUp(unresolved.with(unresolved.state().dueAt(now.plus(firstLook))));
        }

        /// Adds a look-up. Its run holds a slot if it may still be active on the server.
        void lookUp(Unresolved unresolved) {
            lookUps.add(unresolved);
            if (unresolved.state().holdsSlot())
                cutRuns.put(unresolved.attempt().row().index(), unresolved.since());
        }

        /// Frees the slot of a run that was looked up. If it stays unresolved, its next look-up may take it again.
        void release(Unresolved unresolved) {
            cutRuns.remove(unresolved.attempt().row().index());
        }

        /// Lets nothing new start from now on. The first reason stays, because later ones may follow from it. An
        /// interrupt replaces it, because the exit code must show that the user stopped the command.
        void stopWith(Stop reason) {
            if (stopReason.isEmpty() || reason.exit() == Exit.INTERRUPTED) stopReason = Optional.of(reason);
        }

        /// Returns whether there are rows to send.
        boolean hasRows() {
            return !waiting.isEmpty() || fresh.isPresent();
        }

        /// Looks once more for each run that counted as not started, when no row and no look-up is left. At that time,
        /// a late run has had the longest time to appear, and it may be a success that its row lacks.
        void lookForLate(Instant now) {
            if (hasRows() || !lookUps.isEmpty() || lateAsked) return;
            lateAsked = true;
            // empty, because no run of these attempts is known
            unseen.values().forEach(attempts -> attempts.forEach(
                    attempt -> lookUps.add(Unresolved.withoutWait(attempt, Purpose.LATE, Optional.empty(), now))));
        }

        /// Returns whether nothing is left to do. Counts the last look-ups, too, so it is false before they have begun.
        boolean isDone() {
            return !hasRows() && lookUps.isEmpty() && lateAsked;
        }

        /// Returns when the next row is due, which is now if a row was never sent. `Instant.MAX` means that no row is
        /// left.
        Instant nextRowDue(Instant now) {
            return fresh.isPresent() ? now : nextWaitingDue();
        }

        /// Adds an attempt whose run may still appear. The user of an attempt identifies it, because an attempt of an
        /// earlier session has no sequence number.
        void addUnseen(Attempt attempt) {
            var earlier = unseen.computeIfAbsent(attempt.row().index(), _ -> new ArrayList<>());
            earlier.removeIf(one -> one.user().equals(attempt.user())); // another look-up may add the attempt again
            earlier.add(attempt);
        }

        /// Marks that the row is sent again. A run of an earlier attempt that appears from now on is late.
        void markResent(Row row) {
            unseen.getOrDefault(row.index(), List.of()).forEach(attempt -> resentUsers.add(attempt.user()));
        }

        /// Returns whether a run that appears now is late. It is if its row was sent again and the run has not appeared
        /// before.
        boolean isLate(Attempt attempt) {
            return resentUsers.contains(attempt.user()) && unseen.getOrDefault(attempt.row().index(), List.of())
                    .stream().anyMatch(other -> other.user().equals(attempt.user()));
        }

        /// Stops looking for the attempt's run, because it has appeared.
        void noteAppeared(Attempt attempt) {
            unseen.getOrDefault(attempt.row().index(), new ArrayList<>())
                    .removeIf(other -> other.user().equals(attempt.user()));
        }
    }

    /// Holds the figures of this session, and how fast its rows are. Only the engine's thread uses it.
    static final class Tally extends Figures {
        /// Limits the time between two ticks of a process that is active, which has one every 0.2 s. A longer gap means
        /// that the process or the machine was suspended.
        private static final Duration LONGEST_TICK = Duration.ofSeconds(5);

        final long asked; // rows of this session
        final Pace pace;
        private final InstantSource clock;
        private final Instant begunAt;
        private final BitSet ours; // the rows of this session
        private final BitSet open; // the rows of this session that have no outcome of this session
        private final Map<RowStatus, Long> counts = new EnumMap<>(RowStatus.class);
        /// Counts rows that are not part of this session. The map is empty if the session runs a part of the batch.
        private final Map<RowStatus, Long> others = new EnumMap<>(RowStatus.class);
        private final Map<String, Long> causes = new HashMap<>();
        private final ArrayDeque<Instant> recent = new ArrayDeque<>(); // when the last rows ended, for the rate
        /// Counts only runs of this session, because looked-up runs of earlier sessions have no price.
        final Usage.Spending ownSpending = new Usage.Spending();
        private Instant lastTick = Instant.MAX; // before the first tick, there is no gap
        private Duration suspended = Duration.ZERO;
        private Activity activity = new Activity(0, 0, 0, Optional.empty());

        /// Holds what the progress line shows besides counts.
        ///
        /// @param lookUps counts runs that are looked up, and streams that have been silent for a while
        /// @param rest    why the session pauses, if it does
        record Activity(int running, int waiting, int lookUps, Optional<String> rest) {}

        /// Starts with the rows of earlier sessions counted as `others`, because the progress line shows the batch.
        Tally(Batch.Wanted wanted, Pace pace, InstantSource clock) {
            this.ours = wanted.entries();
            this.open = wanted.entries();
            this.asked = wanted.rows();
            this.pace = pace;
            this.clock = clock;
            this.begunAt = clock.instant();
            // the progress line of a part of the batch, such as `--sample`, shows only that part
            if (!wanted.asked().isPart()) for (var status : RowStatus.values())
                others.put(status, wanted.batch().index().count(status) - wanted.count(status));
        }

        /// Takes the state of the session. A gap of [#LONGEST_TICK] or more is left out of the time and the rate, which
        /// would otherwise be wrong for the rest of the session.
        void tick(Instant time, Activity activity) {
            this.activity = activity;
            var before = lastTick;
            var gap = before.isBefore(time) ? Duration.between(before, time) : Duration.ZERO;
            lastTick = time;
            if (gap.compareTo(LONGEST_TICK) < 0) return;
            // moves earlier ends up to the gap's end; rows that ended after the gap but before this call stay
            for (int left = recent.size(); left > 0; left--) {
                var ended = recent.remove();
                recent.add(ended.isAfter(before) ? ended : ended.plus(gap));
            }
            suspended = suspended.plus(gap);
        }

        @Override
        void countSent(int entry, Instant at) {
            super.countSent(entry, at);
            if (recent.isEmpty()) recent.add(at); // the first rate counts from the start of the first rows
        }

        @Override
        void countSpending(int entry, long tokens, BigDecimal price, String currency) {
            super.countSpending(entry, tokens, price, currency);
            if (isSent(entry)) ownSpending.add(tokens, price, currency);
        }

        /// Records an outcome. A late run may change an earlier outcome, including that of a row that is not part of
        /// this session.
        @Override
        void countOutcome(int entry, RowStatus former, Outcome outcome, Double seconds) {
            super.countOutcome(entry, former, outcome, seconds);
            var now = clock.instant();
            var rows = ours.get(entry) || others.isEmpty() ? counts : others;
            if (!open.get(entry)) rows.computeIfPresent(former, (_, count) -> count - 1);
            open.clear(entry);
            rows.merge(outcome.status(), 1L, Long::sum);
            if (outcome.status() == RowStatus.FAILED) causes.merge(Text.cause(outcome.text()), 1L, Long::sum);
            recent.add(now);
            // so few that the rate follows a server that becomes slower, and so many that it is steady
            if (recent.size() > 200) recent.remove();
        }

        /// Returns the number of failed rows by cause.
        Map<String, Long> causes() {
            return Collections.unmodifiableMap(causes);
        }

        Activity activity() {
            return activity;
        }

        long count(RowStatus status) {
            return counts.getOrDefault(status, 0L);
        }

        /// Returns the count of a status, including rows that are not part of this session.
        long countOfAll(RowStatus status) {
            return count(status) + others.getOrDefault(status, 0L);
        }

        long done() {
            return counts.values().stream().mapToLong(Long::longValue).sum();
        }

        long others() {
            return others.values().stream().mapToLong(Long::longValue).sum();
        }

        long succeeded() {
            return count(RowStatus.SUCCEEDED) + count(RowStatus.PARTIAL);
        }

        /// Returns whether the exit code may be 0. It must not be if a file is missing, or if a late run may have been
        /// paid for twice.
        boolean isAllDone() {
            return succeeded() >= asked && missingFiles().isEmpty() && count(LateEvent.class) == 0;
        }

        /// Returns whether all rows left are looked up or wait for a retry. No estimate exists for that time.
        boolean onlyWaits() {
            return asked > done() && asked - done() <= activity.lookUps() + activity.waiting();
        }

        Duration elapsed() {
            return Duration.between(begunAt, clock.instant()).minus(suspended);
        }

        /// Returns the recent rows per second, or 0 if too few have ended. The span lasts until now, so that the rate
        /// falls while no row ends.
        double rate() {
            if (recent.size() < 2) return 0;
            long span = Math.max(1, Duration.between(recent.peekFirst(), clock.instant()).toMillis()); // not 0
            return (recent.size() - 1) * 1000.0 / span;
        }

        /// Returns the time for the rows left, at the recent rate. Returns empty if the rate is unknown, if no row is
        /// left, or if all rows wait.
        Optional<Duration> timeLeft() {
            return rate() == 0 || done() >= asked || onlyWaits() ? Optional.empty()
                    : Optional.of(Duration.ofMillis((long) (1000 * (asked - done()) / rate())));
        }
    }

    // ── Dify ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Holds what a batch needs to know of its server, all of it from one response.
    record ServerInfo(String app, AppKind kind, String version) {}

    /// Asks the server which app and version it is. Retries up to `MAX_RETRIES` times while it is down or busy, and
    /// blocks the calling thread meanwhile. Nothing has started yet, so a refusal ends the command.
    record FirstExchange(DifyClient client, Judge judge, PrintWriter err) {
        /// Limits the characters of a server's text in a message, because it may be a whole web page.
        private static final int QUOTED_CHARACTERS = 200;
        /// Stands for a row, because the rules judge a response only together with an attempt.
        private static final Attempt NOBODY = new Attempt(0, new Row(0, 0, "-", Map.of()), Attempt.Tries.NONE, "",
                Mode.BLOCKING, "", Instant.EPOCH, false);

        /// @param left appended to the message of a refusal to report what it leaves undone, or empty
        ServerInfo server(String left) throws InterruptedException {
            var info = ask(client::info, left);
            String mode = info.path("mode").asText(""), version = info.path("version").asText();
            Release.note(version).ifPresent(err::println);
            if (mode.isEmpty()) throw unusable(notDify(), left); // every version of Dify reports a mode
            var kind = AppKind.of(mode).orElseThrow(() -> unusable(Stop.early("the key belongs to an app of type "
                    + Text.quoted(mode), "use the key of a workflow or a chatflow"), left));
            return new ServerInfo(info.path("name").asText(), kind, version);
        }

        /// Returns whether the app has any of these runs. Asks about one run at a time, because the first one that it
        /// has is enough.
        boolean knowsAny(Collection<Origin.Recorded> runs, String left) throws InterruptedException {
            for (var run : runs)
                if (ask(() -> client.knows(run), left)) return true;
            return false;
        }

        /// Returns the workflow's form, or empty if this path alone is refused. Nothing has been left undone so far, so
        /// a refusal's message needs no addition.
        Optional<JsonNode> form() throws InterruptedException {
            return ask(() -> orUnchecked(client.fetch("/parameters")), "");
        }

        /// Returns an empty form if the refusal concerns this path alone. Dify's own refusals have a code, and a
        /// refusal without a code may come from a proxy that blocks the path.
        private DifyClient.Reply<Optional<JsonNode>> orUnchecked(DifyClient.Reply<JsonNode> form) {
            if (!(form instanceof DifyClient.Reply.NotGot(var response)))
                return form.then(read -> new DifyClient.Reply.Got<>(Optional.of(read)));
            boolean isForAll = response instanceof Response.Refused refused
                    && (refused.isBusy() || !refused.code().isEmpty() && refusal(refused).isPresent());
            if (isForAll) return new DifyClient.Reply.NotGot<>(response);
            err.println("Warning: cannot read the workflow's form (" + Text.printable(response.why(), QUOTED_CHARACTERS)
                    + "): every cell is sent as text, unchecked.");
            return new DifyClient.Reply.Got<>(Optional.empty());
        }

        /// Asks until there is an answer. [#await] ends the loop, by an exception, when the tries are used up.
        <T> T ask(Supplier<DifyClient.Reply<T>> question, String left) throws InterruptedException {
            for (int tries = 0; ; tries++) {
                var reply = question.get();
                if (reply instanceof DifyClient.Reply.Got(var answer)) return answer;
                if (reply instanceof DifyClient.Reply.NotGot(var response)) await(response, tries, left);
            }
        }

        /// Waits until it is time to ask again. Ends the command if asking again cannot help.
        private void await(Response response, int tries, String left) throws InterruptedException {
            var pause = Backoff.Pause.of(response, Instant.now());
            var problem = " (" + Text.printable(response.why(), QUOTED_CHARACTERS) + ")";
            var stop = refusal(response).or(() -> pause.flatMap(Backoff.Pause::stop));
            if (stop.isPresent()) throw unusable(stop.get(), left);
            if (tries >= judge.backoff().maxRetries())
                throw unusable(Stop.early("no response from " + judge.access() + " after "
                        + Text.count(tries + 1, "try", "tries") + problem,
                        "check DIFY_API_BASE_URL, the network, and that Dify is up"), left);
            if (pause.isPresent()) err.println(pause.get().text());
            else if (tries == 0) err.println("No response from " + judge.access() + problem + "; trying again …");
            Thread.sleep(judge.backoff().delay(tries, response.pause()));
        }

        private static Unusable unusable(Stop stop, String left) {
            return new Unusable(stop.exit(), stop.what() + left, stop.hint());
        }

        /// Returns why asking again cannot help. Returns empty for a response that may pass.
        private Optional<Stop> refusal(Response response) {
            // a success whose content is not Dify's counts as a refusal with its status
            if (response instanceof Response.Refused refused && refused.status() < 300) return Optional.of(notDify());
            return switch (judge.verdict(NOBODY, response)) {
                case Verdict.StopBatch(var stop, _) -> Optional.of(stop);
                case Outcome outcome -> Optional.of(Stop.early( // any other rejection, such as a firewall's 403
                        judge.access() + " refuses: " + Text.printable(outcome.text(), QUOTED_CHARACTERS), ""));
                case Verdict.Again _, Verdict.Throttled _, Verdict.Unreached _, Verdict.LookUp _ -> Optional.empty();
            };
        }

        private Stop notDify() {
            return Stop.early(judge.access() + " responds, but is not Dify's API", judge.access().advice());
        }
    }

    /// Sends a row to Dify and reads its response. Cells become values, files are uploaded before the run, and the
    /// files of its outputs are saved after it.
    record Sender(DifyClient client, Form form, Optional<Path> saveFiles) implements Workflow {
        /// Sends an attempt. A file that occurs in several of its cells is uploaded once.
        @Override
        public Response run(Attempt attempt, Consumer<StreamEvent> heard) {
            var values = form.values(attempt.row());
            for (var value : values.entrySet())
                if (value.getValue() instanceof Value.Wrong wrong) // a file has changed since it was checked
                    // false, because another try would read the same file
                    return new Response.NotUploaded(value.getKey() + " " + wrong.why(), false, Optional.empty());
            var ids = new LinkedHashMap<Value.Local, String>();
            for (var file : values.values().stream().flatMap(Value::locals).distinct().toList())
                switch (client.upload(file, attempt.user())) {
                    case DifyClient.Reply.Got(var id) -> {
                        ids.put(file, id);
                        heard.accept(new StreamEvent.Uploaded());
                    }
                    case DifyClient.Reply.NotGot(var response) -> {
                        return notUploaded("upload of " + file.name() + ": ", response);
                    }
                }
            values.replaceAll((_, value) -> value.uploaded(ids));
            var response = client.run(attempt, values, heard);
            if (saveFiles.isEmpty() || !(response instanceof Response.Ran ran)) return response;
            // if this process dies during the downloads, the next session finds the run in the log; a slow disk delays
            // them by 10 s at most, because the links expire after five minutes by default
            ran.run().ifPresent(run -> {
                var recorded = new CompletableFuture<Void>();
                heard.accept(new StreamEvent.Finished(run, recorded));
                recorded.completeOnTimeout(null, 10, TimeUnit.SECONDS).join();
            });
            return withSavedFiles(attempt, ran);
        }

        @Override
        public LookUpResult look(Unresolved unresolved) {
            var attempt = unresolved.attempt();
            // the values that were sent are known only if the row has not changed since
            var found = client.look(unresolved, attempt.isCurrent() ? form.values(attempt.row()) : Map.of());
            return found instanceof LookUpResult.Ended(var ran, var inputs)
                    ? new LookUpResult.Ended(withSavedFiles(attempt, ran), inputs) : found;
        }

        @Override
        public void stop(RunRef run, String user) {
            client.stop(run, user);
        }

        @Override
        public Optional<Response> probe() {
            return client.info() instanceof DifyClient.Reply.NotGot(var response)
                    ? Optional.of(response) : Optional.empty();
        }

        /// Judges a failed upload. Dify rejects a file with 400, 413 or 415 (`files.json`), and then the row is at
        /// fault. A server or connection that failed may work at the next try. A rejected key and throttling count as
        /// they do for a run.
        private static Response notUploaded(String upload, Response response) {
            return switch (response) { // false and true: whether another try may succeed
                case Response.Refused refused when List.of(400, 413, 415).contains(refused.status()) ->
                        new Response.NotUploaded(upload + refused.why(), false, Optional.empty());
                // below 300: a success without the id of a file, such as a proxy's page
                case Response.Refused refused when refused.status() != 429
                        && (refused.status() < 300 || refused.isTransient()) ->
                        new Response.NotUploaded(upload + "HTTP " + refused.status(), true, refused.pause());
                case Response.Cut cut -> new Response.NotUploaded(upload + cut.why(), true, Optional.empty());
                case Response.Refused _, Response.NotSent _, Response.NotUploaded _, Response.Unreadable _,
                        Response.Ran _ -> response;
            };
        }

        private Response.Ran withSavedFiles(Attempt attempt, Response.Ran ran) {
            return saveFiles.isEmpty() || !ran.status().isSuccess() ? ran
                    : ran.with(new FileSaver(client, saveFiles.get()).save(attempt.row().id(), ran.outputs()));
        }

        /// Downloads the files of a run's outputs, before their links expire.
        record FileSaver(DifyClient client, Path folder) {
            /// Saves a row's files. If a file cannot be saved, it is reported as missing. This does not fail the row,
            /// which was paid for.
            Response.SavedFiles save(String id, ObjectNode outputs) {
                long start = System.nanoTime();
                var saved = new ArrayList<Path>();
                var missing = new LinkedHashMap<String, String>();
                for (var output : outputs.properties())
                    // every file object of Dify has this field; lists and objects may contain some, too
                    for (var file : output.getValue().findParents("dify_model_identity")) {
                        var name = fileName(id, output.getKey(), saved.size() + missing.size() + 1,
                                file.path("extension").asText(""));
                        try {
                            saved.add(save(parseUrl(file.path("url").asText("")), file.path("size").asLong(0),
                                    folder.resolve(name)));
                        } catch (IOException problem) {
                            missing.put(name, Text.reason(problem));
                        }
                    }
                return new Response.SavedFiles(saved, missing, Duration.ofNanos(System.nanoTime() - start));
            }

            /// Saves a file under a random name until it is whole and on disk, so that no incomplete file gets its
            /// name. If no answer comes, tries once more. `size` is 0 if Dify does not know it.
            private Path save(URI address, long size, Path place) throws IOException {
                // this fails before the download if the folder cannot be written
                try (var part = Temporary.of(folder, Temporary.HIDDEN)) {
                    var reply = client.download(address, size, part.channel());
                    if (reply instanceof DifyClient.Reply.NotGot(var first)
                            && !new LookUpResult.Silent(first).isAnswer()) {
                        LockSupport.parkNanos(Duration.ofSeconds(1).toNanos()); // returns at once after an interrupt
                        reply = client.download(address, size, part.channel());
                    }
                    if (reply instanceof DifyClient.Reply.NotGot(var response)) throw new IOException(response.why());
                    AtomicFile.force(place, part.channel());
                    var file = moveToFreeName(part.path(), place);
                    AtomicFile.forceFolder(file);
                    return file;
                }
            }

            /// Returns the URL of a file. A row's content can decide which link a workflow returns, so the link is not
            /// trusted. It must not lead to anything that only this machine can reach.
            URI parseUrl(String link) throws IOException {
                if (link.isBlank()) // a blank link would lead to the API itself
                    throw new IOException("the output has no URL");
                try {
                    // a link without a host is relative to the API's URL
                    var address = client.access().baseUrl().resolve(link.strip());
                    if (!String.valueOf(address.getScheme()).matches("https?") || address.getHost() == null)
                        throw new IOException("not an http or https URL");
                    var near = near(address);
                    // links to a Dify on this machine are as local as the API's own URL
                    if (!near.isEmpty() && !near.equals(near(client.access().baseUrl())))
                        throw new IOException("a " + near + " address");
                    return address;
                } catch (IllegalArgumentException _) {
                    throw new IOException("not a URL");
                }
            }

            /// Returns `link-local` or `loopback` for a host that other machines cannot reach, otherwise an empty text.
            /// A host that only a proxy can resolve is not on this machine.
            private static String near(URI address) {
                try {
                    var ips = List.of(InetAddress.getAllByName(address.getHost()));
                    if (ips.stream().anyMatch(InetAddress::isLinkLocalAddress)) return "link-local";
                    boolean isOwn = ips.stream().anyMatch(ip -> ip.isLoopbackAddress() || ip.isAnyLocalAddress());
                    return isOwn ? "loopback" : "";
                } catch (UnknownHostException _) {
                    return "";
                }
            }

            /// Returns `<id>-<output>-<n><ext>`, a name within the folder. A hash follows an id that had to be changed,
            /// because two such ids may become equal. All parts together stay below the 255 bytes that file systems
            /// allow.
            static String fileName(String id, String output, int number, String extension) {
                var row = safeName(id, 100).replaceFirst("^\\.", "_"); // a leading dot would hide the file
                var mark = row.equals(id) ? "" : "~" + HexFormat.of().toHexDigits(Fingerprint.of(Map.of("", id)));
                return row + mark + "-" + safeName(output, 80) + "-" + number
                        + safeName(extension.replaceFirst("^(?=[^.])", "."), 20);
            }

            /// Shortens a text to whole characters within a number of bytes. Replaces characters that a file system or
            /// a shell treats specially, and `..`, which could lead out of the folder.
            private static String safeName(String text, int bytes) {
                var name = ByteBuffer.allocate(bytes);
                UTF_8.newEncoder().encode( // stops at the last character that fits as a whole
                        CharBuffer.wrap(text.replaceAll("[^\\p{L}\\p{N}._-]", "_").replace("..", "__")), name, true);
                return UTF_8.decode(name.flip()).toString();
            }

            /// Moves a completely downloaded file to its name, or to the next free name (`a~2.pdf`). If a file with the
            /// same bytes is already there, returns that file, so that a run that is found twice leaves no copies.
            static Path moveToFreeName(Path part, Path place) throws IOException {
                var name = place.getFileName().toString();
                int dot = name.lastIndexOf('.') < 0 ? name.length() : name.lastIndexOf('.');
                for (int number = 1; ; number++) {
                    var path = number == 1 ? place
                            : place.resolveSibling(name.substring(0, dot) + "~" + number + name.substring(dot));
                    try {
                        return Files.move(part, path);
                    } catch (FileAlreadyExistsException _) { // an existing file is never overwritten
                        if (Files.isRegularFile(path) && Files.mismatch(part, path) < 0) return path;
                    }
                }
            }
        }
    }

    /// Calls Dify's Service API. Never sleeps, never retries, never judges, so that the engine alone decides what is
    /// sent when.
    ///
    /// @param timeout    the limit of one run: from its first event (streaming) or its request (blocking) to its end
    /// @param firstEvent how long a stream may be silent before its first event
    record DifyClient(Transport wire, Access access, AppKind app, Duration timeout, Duration firstEvent)
            implements AutoCloseable {
        /// Limits a request that starts no run. Requests to a Dify whose API process is being replaced are answered
        /// after 7 to 14 s, which this covers.
        private static final Duration QUERY_TIMEOUT = Duration.ofSeconds(30);
        /// Dify 1.14 ends a stream after this silence, whether or not its run waits in the queue.
        private static final Duration FIRST_EVENT_TIMEOUT = Duration.ofSeconds(300);
        private static final String PAGE = "a web page (from a proxy?)";
        /// Limits a downloaded file to 1 GiB, because a link may lead to a response that does not end.
        private static final long MAX_FILE_BYTES = 1L << 30;

        /// Creates a client of a workflow, which [#forApp] replaces when the server has reported the kind of the app.
        ///
        /// @param runs the largest number of runs at a time
        static DifyClient of(Access access, Duration timeout, int runs) {
            return new DifyClient(new Transport(access, Transport.share(runs)), access, AppKind.WORKFLOW, timeout,
                    FIRST_EVENT_TIMEOUT);
        }

        DifyClient forApp(AppKind kind) {
            return new DifyClient(wire, access, kind, timeout, firstEvent);
        }

        private boolean isChat() {
            return app == AppKind.CHATFLOW;
        }

        @Override
        public void close() {
            wire.close();
        }

        // Running

        /// Posts one attempt and reads up to its final event. Does not wait for the end of the stream, which Dify 1.14
        /// delays by a second.
        Response run(Attempt attempt, Map<String, Value> inputs, Consumer<StreamEvent> heard) {
            boolean streaming = attempt.mode() == Mode.STREAMING;
            var post = post(startAddress(), "application/json", BodyPublishers.ofByteArray(body(attempt, inputs)));
            var sent = new SentInputs(attempt.user(), inputs);
            var limit = streaming ? firstEvent : timeout;
            var overdue = streaming ? Symptom.STREAM_SILENT : Symptom.TIMED_OUT;
            var reply = wire.exchange(post, limit, overdue, wire::lastBody, answer -> {
                if (answer.status != 200) return new Reply.Got<>(refusedOrFailed(answer));
                return new Reply.Got<>(answer.isStream ? stream(answer, sent, heard) : blocking(answer, heard));
            });
            return switch (reply) { // for a run, both are a [Response]
                case Reply.Got(var read) -> read;
                case Reply.NotGot(var broken) -> broken;
            };
        }

        /// Recognizes a chatflow's failed run. Dify responds to it with the status and code of refused inputs, but the
        /// run was paid for.
        private Response refusedOrFailed(Transport.Answer answer) throws IOException {
            var refused = refused(answer);
            boolean hasRun = isChat() && refused.status() == 400
                    && refused.message().startsWith(Response.ChatMessage.FAILED);
            return hasRun ? Response.Ran.failed(refused.message()) : refused;
        }

        /// Returns the URL that starts a run. A workflow's version is part of it; a chatflow's is in the request.
        URI startAddress() {
            if (isChat()) return access.at("/chat-messages");
            var version = access.workflowId().isEmpty() ? "" : encoded(access.workflowId()) + "/";
            return access.at("/workflows/" + version + "run");
        }

        /// Reads a blocking response. If it contains no end of the run, the run is looked up, because it may have
        /// started all the same.
        private Response blocking(Transport.Answer answer, Consumer<StreamEvent> heard) throws IOException {
            var symptom = !answer.version.isEmpty() ? Symptom.CUT : Symptom.GATEWAY; // only Dify sends its version
            var reader = new RunReader();
            try {
                reader.add(objectOf(answer));
            } catch (JsonProcessingException problem) {
                return new Response.Cut(symptom, "HTTP 200, " + problem.getOriginalMessage());
            }
            reader.forms().forEach(heard);
            var ran = isChat() ? reader.chatflowRun()
                    : reader.ran().map(end -> end.withWait(waited(answer, reader.finishedAt(), end.usage())));
            if (ran.isPresent()) return ran.get();
            return new Response.Cut(reader.ref(), symptom, "HTTP 200, but the run had not finished");
        }

        /// Returns the time until the run started, which is the time without a response less the run's own time. Dify
        /// 1.16.1 can hold a response back for up to 300 s after the run's end, and this time does not count either.
        private static Optional<Duration> waited(Transport.Answer answer, long finishedAt, Usage usage) {
            if (usage.seconds() <= 0) return Optional.empty();
            var waited = answer.waited.minus(usage.within(answer.waited));
            if (waited.toSeconds() < 1) return Optional.of(waited); // too short for a response that was held back
            long sent = answer.date("Date").map(Instant::getEpochSecond).orElse(0L);
            long late = sent - finishedAt - 1; // both are whole seconds of the server's clock, so 1 s may be rounding
            waited = waited.minusSeconds(late > 0 && late <= 300 ? late : 0);
            return Optional.of(waited.isNegative() ? Duration.ZERO : waited);
        }

        /// Reads a stream up to its final event, and passes on each event. If the stream ends without a final event,
        /// the run is looked up.
        private Response stream(Transport.Answer answer, SentInputs sent, Consumer<StreamEvent> heard)
                throws IOException {
            var reader = new RunReader();
            for (var event = answer.event(); event.isPresent(); event = answer.event()) {
                reader.add(event.get());
                if (reader.isForeign(sent))
                    return new Response.Cut(Symptom.CONTRADICTED, "the stream belongs to another request");
                if (answer.run().isEmpty() && reader.ref().isPresent()) // any event may be the first that arrives
                    answer.began(reader.ref().get(), timeout, heard);
                heard.accept(reader.streamEvent());
                // moderation or an annotation has answered, and nothing ran; Dify 1.16 then makes up the end of a run
                if (isChat() && reader.is("message_end") && reader.ref().isEmpty())
                    return reader.chatflowRun().<Response>map(end -> end)
                            .orElseGet(() -> new Response.Cut(Symptom.CUT, "the chatflow ended without an answer"));
                var end = reader.end();
                if (end.isPresent()) {
                    var ends = ends(end.get(), answer, reader);
                    var response = Response.ofEnds(answer.run().or(reader::ref), ends);
                    return isChat() && response instanceof Response.Ran ran ? reader.completed(ran) : response;
                }
            }
            return answer.cut(Symptom.STREAM_SILENT, "the stream ended before the run had finished");
        }

        /// Collects further final events, which may follow after a moment. Dify 1.16 makes up a result after an error,
        /// and 1.9 sends the metadata of a chatflow's answer last. A stream with two different results is not trusted.
        private List<Response> ends(Response first, Transport.Answer answer, RunReader reader) {
            var ends = new ArrayList<>(List.of(first));
            boolean mayFollow = first instanceof Response.Refused || isChat() && !reader.hasMetadata();
            answer.limit(Duration.ofMillis(100)); // in the recordings, such events follow within 3 ms
            try {
                while (mayFollow || answer.hasMore()) {
                    var event = answer.event();
                    if (event.isEmpty()) break;
                    reader.add(event.get());
                    reader.end().ifPresent(ends::add);
                }
            } catch (IOException _) {
                // the limit is over, or the connection broke, so no more events came
            }
            return ends;
        }

        // Looking up

        /// Looks a run up by its id, or by its attempt's user if the id is unknown. Stops an overdue run first. If a
        /// stream contradicts itself, or Dify 1.16 may have made up the id, and the id leads to no run of this attempt,
        /// the attempt's user decides.
        LookUpResult look(Unresolved unresolved, Map<String, Value> values) {
            var user = unresolved.attempt().user();
            var sent = new SentInputs(user, values);
            if (unresolved.stopsFirst()) stop(unresolved.run().get(), user);
            if (unresolved.run().isEmpty()) return byName(sent);
            var run = unresolved.run().get();
            var found = detail(run, sent);
            boolean isMadeUp = unresolved.is(Symptom.UNCONFIRMED) || unresolved.is(Symptom.CONTRADICTED)
                    || run.isMadeUp();
            if (found == LookUpResult.FOREIGN || isMadeUp && found instanceof LookUpResult.Absent) {
                var own = byName(sent);
                // if the id belongs to another run, an empty list does not show that this attempt has none
                return own.isThere() || found instanceof LookUpResult.Absent ? own : found;
            }
            if (!isChat()) return found;
            // a success gets the answer that people see, because moderation replaces it only in the message
            if (!(found instanceof LookUpResult.Ended(var ran, _)) || !ran.status().isSuccess()) return found;
            return result(message(sent), message -> new StoredMessage(message).completing(found));
        }

        /// Returns whether the app has a run. Dify responds with 404 for a run of another app (1.9: with empty fields),
        /// and lists no conversation of another app's user. A record that cannot be read is a record of this app.
        Reply<Boolean> knows(Origin.Recorded run) {
            var sent = new SentInputs(run.user(), Map.of()); // the user alone must agree
            // only a stop needs the task, which is left empty
            var found = run.id().isEmpty() ? byName(sent) : detail(new RunRef(run.id(), ""), sent);
            if (found == LookUpResult.FOREIGN) return new Reply.Got<>(false);
            if (!(found instanceof LookUpResult.Silent(var response))) return new Reply.Got<>(found.isThere());
            return response instanceof Response.Unreadable ? new Reply.Got<>(true) : new Reply.NotGot<>(response);
        }

        /// Looks a run up by the user of its attempt. A workflow's runs are in its log. A chatflow's runs are not, so
        /// their conversations are listed instead. One entry is expected; a job that Dify ran twice has two.
        private LookUpResult byName(SentInputs sent) {
            if (isChat()) return result(message(sent), message -> ofMessage(message, sent));
            var rows = list("/workflows/logs?limit=20&created_by_end_user_session_id=" + encoded(sent.user()),
                    row -> row.at("/created_by_end_user/session_id").asText("").equals(sent.user())
                            && !row.at("/workflow_run/id").asText("").isEmpty());
            // the log lacks the task, so it is left empty
            return result(rows, known -> known.isEmpty() ? new LookUpResult.Absent()
                    : detail(new RunRef(known.getFirst().at("/workflow_run/id").asText(), ""), sent));
        }

        /// Interprets the message of a chatflow's run. Only a run that has paused can be asked for by its id.
        private LookUpResult ofMessage(JsonNode message, SentInputs sent) {
            if (message.isMissingNode()) return new LookUpResult.Absent();
            var stored = new StoredMessage(message);
            var run = stored.pausedRun();
            return run.isPresent() ? stored.completing(detail(run.get(), sent)) : stored.result();
        }

        /// Returns the one message of an attempt's conversation, or a missing node if there is no conversation.
        private Reply<JsonNode> message(SentInputs sent) {
            var conversations = list("/conversations?limit=20&user=" + encoded(sent.user()), conversation ->
                    !conversation.path("id").asText("").isEmpty() && sent.matches(conversation.path("inputs")));
            return conversations.then(found -> found.isEmpty() ? new Reply.Got<>(Json.MAPPER.missingNode())
                    : messageOf(found.getFirst().path("id").asText(), sent));
        }

        /// Returns the first message of this conversation. Skips messages of other conversations, which the list should
        /// not contain. A conversation without a message is an error, because Dify creates both together.
        private Reply<JsonNode> messageOf(String conversation, SentInputs sent) {
            var path = "/messages?limit=20&user=" + encoded(sent.user()) + "&conversation_id=" + encoded(conversation);
            var messages = list(path, message -> sent.matches(message.path("inputs"), message.path("query")));
            return messages.then(all -> {
                for (var message : all)
                    if (message.path("conversation_id").asText(conversation).equals(conversation))
                        return new Reply.Got<>(message);
                return new Reply.NotGot<>(Response.Refused.unexpected("the conversation has no message"));
            });
        }

        /// Returns the entries of a list if the list is whole and each entry belongs to this request. Any other
        /// response is an error. If it counted as an empty list, a row whose run exists could be sent again.
        Reply<List<JsonNode>> list(String path, Predicate<JsonNode> isOurs) {
            return ask(get(path), QUERY_TIMEOUT, answer -> {
                var list = tree(answer);
                var data = list.path("data");
                // conversations and messages have no `total`; a field of another type makes the list incomplete
                boolean isWhole = data.isArray() && !list.path("has_more").asBoolean(list.has("has_more"))
                        && list.path("total").asInt(list.has("total") ? -1 : data.size()) == data.size();
                if (!isWhole || !data.valueStream().allMatch(isOurs))
                    throw unexpected("Dify returned another list, or part of it");
                return data.valueStream().toList();
            });
        }

        /// Looks a run up by its id. Believes only a record with this id and the inputs of this attempt, because a
        /// proxy may return another response.
        private LookUpResult detail(RunRef run, SentInputs sent) {
            var reply = this.<LookUpResult>ask(get("/workflows/run/" + encoded(run.id())), QUERY_TIMEOUT, answer -> {
                var detail = objectOf(answer);
                if (detail.path("id").isNull() && detail.path("status").isNull())
                    return new LookUpResult.Absent(); // 1.9 responds with empty fields if it has no such run
                var id = RunReader.text(detail, "id");
                if (id.isEmpty()) throw unexpected("Dify returned a different run");
                var reader = new RunReader();
                reader.add(Json.MAPPER.createObjectNode().set("data", detail)); // the form that the reader expects
                if (!id.equalsIgnoreCase(run.id()) || reader.isForeign(sent)) return LookUpResult.FOREIGN;
                return reader.result(run, answer.date("Date").orElseGet(Instant::now)); // by the server's clock
            });
            if (isAbsent(reply)) return new LookUpResult.Absent();
            // with the run's id, which the transport does not know, so that the user can find the paid run
            if (reply instanceof Reply.NotGot(Response.Unreadable(_, var why)))
                return new LookUpResult.Silent(new Response.Unreadable(Optional.of(run), why));
            return result(reply, Function.identity());
        }

        /// Returns whether Dify has no such run. A 404 without Dify's code does not count, because it is a proxy's.
        private static boolean isAbsent(Reply<?> reply) {
            return reply instanceof Reply.NotGot(Response.Refused gone) && gone.status() == 404
                    && gone.code().equals("not_found");
        }

        /// Interprets the content of a reply. A reply without content shows nothing about the run.
        private static <T> LookUpResult result(Reply<T> reply, Function<T, LookUpResult> then) {
            return switch (reply) {
                case Reply.Got(var value) -> then.apply(value);
                case Reply.NotGot(var response) -> new LookUpResult.Silent(response);
            };
        }

        /// Creates an exception for a response that is JSON, but not what was asked for. It has the type of a syntax
        /// error, because [#ask] treats both alike.
        private static JsonProcessingException unexpected(String what) {
            return new JsonParseException(null, what); // there is no parser
        }

        // Other requests

        /// Asks Dify to stop a task. Dify responds with `success` even if there is no such task (`stop.json`), so the
        /// response is not kept.
        void stop(RunRef run, String user) {
            var path = (isChat() ? "/chat-messages/" : "/workflows/tasks/") + encoded(run.task()) + "/stop";
            var body = BodyPublishers.ofByteArray(Json.bytes(object("user", user)));
            ask(post(access.at(path), "application/json", body), QUERY_TIMEOUT, Transport.Answer::beginning);
        }

        /// Uploads a file and returns its id. Does not send a file that a symbolic link has replaced since the check,
        /// because the link could lead anywhere. The limit is that of a run, because a large file takes long to send.
        Reply<String> upload(Value.Local local, String user) {
            var head = "--%1$s\r\nContent-Disposition: form-data; name=\"user\"\r\n\r\n%2$s\r\n"
                    + "--%1$s\r\nContent-Disposition: form-data; name=\"file\"; filename=\"%3$s\"\r\n"
                    + "Content-Type: %4$s\r\n\r\n";
            var boundary = "difyexec-" + UUID.randomUUID();
            // Dify 1.9 rejects these characters (`files.json`), and a quote or a line break would end the header
            var name = local.name().replaceAll("[\\\\/:*?\"<>|\\p{Cntrl}]", "_");
            try {
                if (!local.file().toRealPath().equals(local.file()))
                    throw new IOException("the file was replaced by a symbolic link");
                // Dify rejects an upload without a type
                var type = Objects.requireNonNullElse(Files.probeContentType(local.file()), "application/octet-stream");
                var body = BodyPublishers.concat(
                        BodyPublishers.ofString(head.formatted(boundary, user, name, type)),
                        BodyPublishers.ofFile(local.file()),
                        BodyPublishers.ofString("\r\n--" + boundary + "--\r\n"));
                return ask(post(access.at("/files/upload"), "multipart/form-data; boundary=" + boundary, body),
                        timeout, answer -> {
                            var id = tree(answer).path("id").asText("");
                            if (id.isEmpty()) throw unexpected("Dify returned no id for the uploaded file");
                            return id;
                        });
            } catch (IOException problem) {
                // the file on this machine is at fault, so another try fails, too
                return new Reply.NotGot<>(
                        new Response.NotUploaded(local.file() + ": " + Text.reason(problem), false, Optional.empty()));
            }
        }

        /// Fetches a whole file of an output. The link is signed, so the key is not sent; the link may even lead to
        /// another server. If Dify knows the file's `size`, the file must have it.
        Reply<FileChannel> download(URI link, long size, FileChannel to) {
            return ask(request(link), timeout, answer -> {
                var tooLarge = "larger than 1 GiB";
                long expected = answer.header("Content-Length").map(Long::parseLong).orElse(size);
                if (Math.max(expected, size) > MAX_FILE_BYTES) throw new Transport.Exceeded(tooLarge); // saves the time
                to.truncate(0); // an earlier try may have left bytes
                long length = answer.body(MAX_FILE_BYTES, tooLarge).transferTo(Channels.newOutputStream(to));
                if (size > 0 && length != size) throw new IOException("incomplete: got " + length + " of "
                        + size + " bytes");
                return to;
            });
        }

        Reply<JsonNode> fetch(String path) {
            return ask(get(path), QUERY_TIMEOUT, DifyClient::tree);
        }

        /// Fetches a page of a list. A response without the list is an error, because it would look like the last page.
        Reply<JsonNode> page(String path) {
            return fetch(path).then(list -> list.path("data").isArray() ? new Reply.Got<>(list)
                    : new Reply.NotGot<>(Response.Refused.unexpected("Dify returned another list, or part of it")));
        }

        /// Fetches Dify's record of a run. Returns empty if there is no record, or none that can be used.
        Reply<Optional<StoredRun>> storedRun(String id) {
            var reply = fetch("/workflows/run/" + encoded(id));
            return isAbsent(reply) ? new Reply.Got<>(Optional.empty())
                    : reply.then(detail -> new Reply.Got<>(StoredRun.of(id, detail)));
        }

        /// Sends `GET /info`, which starts no run, and adds the version from the response's header.
        Reply<JsonNode> info() {
            return ask(get("/info"), QUERY_TIMEOUT, answer -> objectOf(answer).put("version", answer.version));
        }

        // Requests and answers

        /// Encodes a part of a URL. `URLEncoder` encodes forms, where a space becomes `+`; in a path, it must be `%20`.
        static String encoded(String part) {
            return URLEncoder.encode(part, UTF_8).replace("+", "%20");
        }

        /// Builds a run's request. A chatflow's row gets its own conversation, so that no row sees the messages of
        /// another one. The conversation gets no name, because a name could cost a model call.
        byte[] body(Attempt attempt, Map<String, Value> inputs) {
            var sent = new LinkedHashMap<String, Object>();
            var body = object("inputs", sent);
            inputs.forEach((name, value) -> {
                if (value instanceof Value.Query(var text)) body.put("query", text);
                else sent.put(name, json(value));
            });
            body.put("response_mode", attempt.mode() == Mode.STREAMING ? "streaming" : "blocking");
            body.put("user", attempt.user());
            if (!isChat()) return Json.bytes(body);
            body.put("auto_generate_name", false);
            // a workflow's version is part of the URL instead, see [#startAddress]
            if (!access.workflowId().isEmpty()) body.put("workflow_id", access.workflowId());
            return Json.bytes(body);
        }

        /// Converts a cell's value to JSON. Only `check` shows a file that has no id yet.
        private static Object json(Value value) {
            return switch (value) {
                case Value.Str(var text) -> text;
                case Value.Raw(var json) -> new RawValue(json);
                case Value.Local local -> json(local.uploaded("<upload of " + local.file() + ">"));
                case Value.Several(var files) -> files.stream().map(DifyClient::json).toList();
                case Value.Query _, Value.None _, Value.Wrong _ -> null; // none of these is an input
            };
        }

        private HttpRequest.Builder get(String path) {
            return authorized(access.at(path));
        }

        private HttpRequest.Builder post(URI address, String type, BodyPublisher body) {
            return authorized(address).header("Content-Type", type).POST(body);
        }

        /// Adds the key, and the app's id if it is set, because a key can belong to several apps.
        private HttpRequest.Builder authorized(URI address) {
            var request = request(address).header("Authorization", "Bearer " + access.key());
            return access.appId().isEmpty() ? request : request.header("X-Dify-App-ID", access.appId());
        }

        private static HttpRequest.Builder request(URI address) {
            return HttpRequest.newBuilder(address).header("User-Agent", "difyexec/" + VERSION);
        }

        /// Sends a request that starts no run. A success with unexpected content counts as a refusal, because it shows
        /// nothing about a run.
        private <T> Reply<T> ask(HttpRequest.Builder request, Duration limit,
                IOFunction<Transport.Answer, T> reading) {
            return wire.exchange(request, limit, Symptom.NO_ANSWER,
                    _ -> BodySubscribers.ofInputStream(), answer -> {
                        if (answer.status != 200 && answer.status != 201) // 201: an upload has created a file
                            return new Reply.NotGot<>(refused(answer));
                        try {
                            return new Reply.Got<>(reading.apply(answer));
                        } catch (JsonProcessingException problem) {
                            return new Reply.NotGot<>(Response.Refused.unexpected(problem.getOriginalMessage()));
                        }
                    });
        }

        /// Parses a response. Text after the JSON is an error, because the response may then consist of two. If nesting
        /// exceeds the parser's limit, the JSON may be correct, so that counts as a response that is too large.
        private static JsonNode tree(Transport.Answer answer) throws IOException {
            if (answer.isPage) throw unexpected(PAGE);
            try {
                return Json.MAPPER.reader().with(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
                        .readTree(answer.body());
            } catch (StreamConstraintsException problem) {
                throw new Transport.Exceeded("the response is nested too deeply: " + problem.getOriginalMessage());
            }
        }

        private static ObjectNode objectOf(Transport.Answer answer) throws IOException {
            if (tree(answer) instanceof ObjectNode object) return object;
            throw unexpected("not a JSON object");
        }

        /// Reads a refusal. Dify's has a code and a message; the text of a proxy becomes the message, but not the HTML
        /// of a page, which nobody wants to read.
        private static Response.Refused refused(Transport.Answer answer) throws IOException {
            int status = answer.status;
            var text = answer.beginning();
            String code = "", message = text.stripLeading().startsWith("<") ? PAGE : text;
            // the message to the user contains the target of a redirection
            if (status >= 300 && status < 400) message = answer.header("Location").orElse("nowhere");
            else if (Json.parse(text) instanceof ObjectNode error) { // otherwise HTML or plain text
                code = RunReader.text(error, "code");
                message = RunReader.text(error, "message");
            }
            return Response.Refused.http(status, !answer.version.isEmpty(), code, message, answer.retryAfter());
        }

        /// Holds the result of an exchange: the response's content, or what happened instead.
        sealed interface Reply<T> {
            record Got<T>(T value) implements Reply<T> {}

            /// @param response what happened instead: a refusal, a broken connection or a request that did not leave
            record NotGot<T>(Response response) implements Reply<T> {}

            /// Continues with the content. Without content, the response stays the result.
            default <U> Reply<U> then(Function<T, Reply<U>> next) {
                return switch (this) {
                    case Got(var value) -> next.apply(value);
                    case NotGot(var response) -> new NotGot<>(response);
                };
            }
        }

        /// Holds the inputs of a request. A response counts for a row only if it agrees with them.
        ///
        /// @param values empty if the row has changed since
        record SentInputs(String user, Map<String, Value> values) {
            boolean matches(JsonNode inputs) {
                return matches(inputs, inputs.path("sys.query"));
            }

            /// Returns whether a run with these inputs may belong to this request. If the record has a user, the user
            /// decides, because each attempt has its own. Otherwise, only text values are compared, because Dify may
            /// convert other values. Values that the workflow does not declare are missing in the record.
            boolean matches(JsonNode inputs, JsonNode query) {
                var stored = inputs.path("sys.user_id");
                if (stored.isTextual()) return stored.asText().equals(user);
                return values.entrySet().stream().allMatch(each -> switch (each.getValue()) {
                    case Value.Str(var text) -> isSame(text, inputs.path(each.getKey()));
                    case Value.Query(var text) -> isSame(text, query);
                    case Value.Raw _, Value.Local _, Value.Several _, Value.None _, Value.Wrong _ -> true;
                });
            }

            /// Compares only texts, because Dify may convert a value. It removes NUL characters, and an unpaired
            /// surrogate cannot be sent.
            private static boolean isSame(String text, JsonNode stored) {
                return !stored.isTextual() || stored.asText().equals(Json.wellFormed(text).replace("\0", ""));
            }
        }
    }

    /// Reads one response, or the events of one stream. Keeps what earlier events contained, because later events do
    /// not repeat it.
    static final class RunReader {
        /// Matches a price, which Dify sends as text. Limits its digits, because `1e999999999` has a billion of them
        /// when it is written in full.
        private static final Pattern PRICE = Pattern.compile("\\d{1,15}(\\.\\d{1,30})?([eE][-+]?\\d{1,2})?");

        private JsonNode last = Json.MAPPER.missingNode(), metadata = last;
        private String runId = "", taskId = "", workflowId = "", conversation = "", messageId = "", currency = "";
        private final Map<String, BigDecimal> prices = new LinkedHashMap<>(); // by currency
        private boolean isPriceKnown = true; // false if a node reported a price that cannot be read
        private final StringBuilder answer = new StringBuilder(); // a chatflow's text so far
        private boolean isReplaced = false; // whether moderation has replaced some of that text

        static String text(JsonNode from, String name) {
            return from.path(name).asText("");
        }

        /// Reads an event, a blocking response or a run's detail. The detail (`GET /workflows/run/{id}`) has the fields
        /// of `data` at the top level, so it must be wrapped into `data`. Adds up the prices of nodes, because no event
        /// contains the price of the run.
        void add(JsonNode payload) {
            last = payload;
            runId = orIfEmpty(ownRunId(), runId);
            taskId = orIfEmpty(text(last, "task_id"), taskId);
            conversation = orIfEmpty(text(last, "conversation_id"), conversation);
            messageId = orIfEmpty(text(last, "message_id"), messageId);
            if (isOfRun()) workflowId = orIfEmpty(text(data(), "workflow_id"), workflowId);
            if (last.path("metadata").isObject()) metadata = last.path("metadata");
            switch (event()) {
                case "node_finished" -> {
                    var paid = data().path("execution_metadata");
                    if (text(paid, "total_price").isEmpty()) return;
                    currency = orIfEmpty(text(paid, "currency"), currency);
                    price(paid).ifPresentOrElse(more -> prices.merge(currency, more, BigDecimal::add),
                            () -> isPriceKnown = false);
                }
                case "message_replace" -> {
                    isReplaced = true;
                    answer.setLength(0);
                    answer.append(text(last, "answer"));
                }
                case "message" -> answer.append(text(last, "answer"));
                default -> {}
            }
        }

        /// Keeps the earlier text if an event lacks it, such as the run id of an `error` event.
        private static String orIfEmpty(String text, String before) {
            return text.isEmpty() ? before : text;
        }

        private String event() {
            return text(last, "event");
        }

        boolean is(String event) {
            return event().equals(event);
        }

        private JsonNode data() {
            return last.path("data");
        }

        /// Returns whether `data` is the run's own, and not of one of its nodes, whose `id` and `status` look alike. A
        /// blocking response of a workflow has no event.
        private boolean isOfRun() {
            return (event().isEmpty() || event().startsWith("workflow_")) && data().isObject();
        }

        private String ownRunId() {
            var id = text(last, "workflow_run_id");
            return id.isEmpty() && isOfRun() ? text(data(), "id") : id;
        }

        /// Returns whether the last payload contains inputs that were not sent.
        boolean isForeign(DifyClient.SentInputs sent) {
            return isOfRun() && ofRun("inputs").filter(inputs -> !sent.matches(inputs)).isPresent();
        }

        /// Returns an object of the run, which may be stored as text (1.9.2). Returns empty for anything else.
        private Optional<ObjectNode> ofRun(String name) {
            var value = data().path(name);
            try {
                if (value.isTextual()) value = Json.MAPPER.readTree(value.textValue());
            } catch (JsonProcessingException _) {
                // the text is not JSON
            }
            return value instanceof ObjectNode object ? Optional.of(object) : Optional.empty();
        }

        /// Returns the last event for those who follow a run. Events of later versions of Dify count as other events.
        StreamEvent streamEvent() {
            var data = data();
            return switch (event()) {
                case "node_started" -> new StreamEvent.NodeBegan(text(data, "title"), text(data, "node_type"));
                case "node_finished" -> new StreamEvent.NodeEnded(text(data, "title"), text(data, "node_type"),
                        text(data, "status"), data.path("elapsed_time").asDouble(0), text(data, "error"));
                case "text_chunk" -> new StreamEvent.Chunk(text(data, "text"));
                case "reasoning_chunk" -> new StreamEvent.Chunk(text(data, "reasoning"));
                case "human_input_required" -> form(data);
                case "message" -> new StreamEvent.Chunk(text(last, "answer"));
                // what was shown cannot be taken back, so the new text begins a line of its own
                case "message_replace" -> new StreamEvent.Chunk("\n" + text(last, "answer"));
                default -> new StreamEvent.OtherEvent();
            };
        }

        /// Returns the forms that the run of a blocking response waits for. A stream has an event for each.
        List<StreamEvent> forms() {
            return data().path("reasons").valueStream().filter(reason -> reason.has("form_id"))
                    .map(this::form).toList();
        }

        /// Reads a form of a Human Input node. A time that `Instant` or a calendar cannot hold counts as unknown.
        private StreamEvent form(JsonNode from) {
            long expires = from.path("expiration_time").asLong(0);
            return new StreamEvent.Form(runId, text(from, "node_title"), text(from, "form_token"),
                    expires > 0 && expires < 1L << 40 ? Optional.of(Instant.ofEpochSecond(expires)) : Optional.empty());
        }

        /// Returns a price. Returns empty for anything else, such as a negative number.
        static Optional<BigDecimal> price(JsonNode from) {
            return Optional.of(text(from, "total_price")).filter(PRICE.asMatchPredicate()).map(BigDecimal::new);
        }

        /// Returns the cost and its currency. A run that was paid in two currencies has no price, because one number
        /// cannot hold it. Models without a price report 0 in any currency, so sums of 0 are left out if there is
        /// another one.
        private Optional<Map.Entry<String, BigDecimal>> cost() {
            var paid = prices.entrySet().stream().filter(each -> each.getValue().signum() != 0).toList();
            // all are 0, so any currency will do
            if (paid.isEmpty()) paid = prices.entrySet().stream().limit(1).toList();
            return isPriceKnown && paid.size() == 1 ? Optional.of(paid.getFirst()) : Optional.empty();
        }

        Optional<RunRef> ref() {
            return runId.isEmpty() ? Optional.empty() : Optional.of(new RunRef(runId, taskId));
        }

        boolean hasMetadata() {
            return !metadata.isMissingNode();
        }

        /// Returns the outcome if the last event ends the stream. Without a run id, such an event cannot be trusted. An
        /// `error` event without a status is treated as a server's error, so that its run is looked up.
        Optional<Response> end() {
            if (is("error")) return Optional.of(Response.Refused.event(last.path("status").asInt(500),
                    text(last, "code"), text(last, "message"), ref()));
            if (!is("workflow_finished") && !is("workflow_paused")) return Optional.empty();
            return ownRunId().isEmpty()
                    ? Optional.of(new Response.Cut(ref(), Symptom.CONTRADICTED, "the stream's end has no run id"))
                    : ran().map(Response.class::cast);
        }

        /// Reads the run's outcome from its last event, its blocking response or its detail. Returns empty if there is
        /// none, or a status that this version does not know.
        Optional<Response.Ran> ran() {
            if (!isOfRun() || runId.isEmpty()) return Optional.empty();
            var run = data();
            var usage = new Usage(run.path("elapsed_time").asDouble(0), run.path("total_tokens").asLong(0),
                    run.path("total_steps").asInt(0), cost().map(Map.Entry::getValue),
                    cost().map(Map.Entry::getKey).orElse(""));
            var outputs = ofRun("outputs").orElseGet(Json.MAPPER::createObjectNode);
            return Response.RunStatus.of(text(run, "status")).map(status -> new Response.Ran(
                    new RunRef(runId, taskId), status, outputs, text(run, "error"), workflowId, usage));
        }

        long finishedAt() {
            return data().path("finished_at").asLong(0);
        }

        /// Returns what the response contains about a chatflow's message. The price is that of the whole answer.
        private Response.ChatMessage message() {
            var usage = metadata.path("usage");
            boolean isUnclear = !prices.isEmpty() && cost().isEmpty(); // in this case Dify has added up two currencies
            return new Response.ChatMessage(conversation, messageId, usage.path("total_tokens").asLong(0),
                    isUnclear ? Optional.empty() : price(usage), text(usage, "currency"));
        }

        /// Completes the outcome of a chatflow's streamed run. Moderation may have replaced the answer: then the run's
        /// outputs still contain the original text, which nobody was meant to see. If the outputs have no answer, the
        /// run is looked up.
        Response completed(Response.Ran ran) {
            var outputs = Json.MAPPER.createObjectNode();
            outputs.setAll(ran.outputs());
            if (ran.status().isSuccess() && isReplaced) outputs.put("answer", answer.toString());
            if (ran.status().isSuccess() && !outputs.path("answer").isTextual())
                return new Response.Cut(Optional.of(ran.ref()), Symptom.CUT, "the run ended without an answer");
            return ran.with(message(), withSources(outputs, metadata));
        }

        /// Reads a chatflow's answer. A blocking response contains the run id only if the run waits for a person.
        /// Returns empty without an answer, because an empty text does not show whether the run has ended.
        Optional<Response.Ran> chatflowRun() {
            if (is("workflow_paused")) return ran().map(ran -> ran.with(message(), ran.outputs()));
            if (event().isEmpty()) answer.append(text(last, "answer")); // otherwise [#add] has added it
            var outputs = Json.MAPPER.createObjectNode().put("answer", answer.toString());
            return answer.isEmpty() ? Optional.empty()
                    : Optional.of(Response.Ran.answered(withSources(outputs, metadata), 0, message()));
        }

        /// Adds a chatflow's sources to its outputs. Removes an empty list of files, which streams and records have
        /// but blocking responses lack.
        static ObjectNode withSources(ObjectNode outputs, JsonNode from) {
            if (outputs.path("files").isEmpty()) outputs.remove("files");
            var sources = from.path("retriever_resources");
            if (!sources.isEmpty()) outputs.set("retriever_resources", sources);
            return outputs;
        }

        /// Interprets the detail of a run that was looked up. A status that this version does not know counts as
        /// active, because it is not known to be an end.
        ///
        /// @param now the time on the server's clock
        LookUpResult result(RunRef asked, Instant now) {
            taskId = asked.task();
            var status = Response.RunStatus.of(text(data(), "status")).orElse(Response.RunStatus.RUNNING);
            if (status.isSuccess() && isDamaged()) return new LookUpResult.Silent(new Response.Unreadable(
                    Optional.of(asked), "Dify's record of the outputs is damaged"));
            return switch (status) {
                // after 1.16.1, Dify moves a run at most 20 times, for up to 600 s each
                case RUNNING, PAUSED -> new LookUpResult.Running(ref().orElse(asked), status, age(now), Duration
                        .ofSeconds(Math.clamp(data().path("handoff_duration").asLong(0), 0, 20 * 600)));
                case SUCCEEDED, PARTIAL, FAILED, STOPPED -> new LookUpResult.Ended(ran().orElseThrow(),
                        sentCells(ofRun("inputs").orElseGet(Json.MAPPER::createObjectNode)));
            };
        }

        /// Returns how long ago the run started, or empty if Dify does not report it. It is at least 0, even if the
        /// clocks differ.
        private Optional<Duration> age(Instant now) {
            long start = data().path("created_at").asLong(0);
            if (start <= 0) return Optional.empty();
            return Optional.of(Duration.ofSeconds(Math.max(0, now.getEpochSecond() - start)));
        }

        /// Returns whether the outputs are text but not the JSON of an object. Dify 1.9.2 cuts long outputs like this.
        private boolean isDamaged() {
            var text = text(data(), "outputs");
            return data().path("outputs").isTextual() && !text.isBlank() && !text.equals("null")
                    && ofRun("outputs").isEmpty();
        }

        /// Returns the inputs in Dify's record as cells, without those that Dify adds. A chatflow's question is stored
        /// as `sys.query`, but is the cell `query`.
        static Map<String, String> sentCells(JsonNode inputs) {
            var cells = new LinkedHashMap<String, String>();
            inputs.properties().forEach(each -> {
                var name = each.getKey().equals("sys.query") ? "query" : each.getKey();
                var value = each.getValue();
                if (!name.startsWith("sys.")) cells.put(name, value.isValueNode() ? value.asText() : value.toString());
            });
            return cells;
        }
    }

    /// Holds a workflow's run that has ended, as the server has stored it. `stored` contains its inputs.
    record StoredRun(JsonNode detail, Response.Ran ran, JsonNode stored) {
        private static final String FILE = "dify_model_identity"; // only Dify's file objects have this field

        /// Reads the detail of a run, whose `inputs` are text in every version. Returns empty for a run that has not
        /// ended, or for a detail of another run.
        static Optional<StoredRun> of(String id, JsonNode detail) {
            var reader = new RunReader();
            reader.add(Json.MAPPER.createObjectNode().set("data", detail)); // the form that the reader expects
            var stored = Json.parse(RunReader.text(detail, "inputs"));
            boolean isWhole = id.equalsIgnoreCase(RunReader.text(detail, "id")) && stored.isObject();
            // EPOCH is not used, because only the age of an active run needs the time
            return isWhole && reader.result(RunRef.NONE, Instant.EPOCH) instanceof LookUpResult.Ended(var ran, _)
                    ? Optional.of(new StoredRun(detail, ran, stored)) : Optional.empty();
        }

        String id() {
            return ran.ref().id();
        }

        /// Returns whether a file was uploaded to Dify. Such a file has only a link that expires, so another run cannot
        /// get it by its URL.
        boolean hasUpload() {
            return stored.findParents(FILE).stream()
                    .anyMatch(file -> !RunReader.text(file, "transfer_method").equals("remote_url"));
        }

        /// Returns the inputs as they were sent, with each file as its URL. Leaves out what Dify adds: null for inputs
        /// that were not sent, and its own variables such as `sys.user_id` (the only names with a dot).
        Map<String, JsonNode> inputs() {
            var inputs = new LinkedHashMap<String, JsonNode>();
            stored.forEachEntry((name, value) -> {
                if (name.contains(".") || value.isNull()) return;
                boolean isFile = value.findParent(FILE) != null;
                var urls = value.findValues("remote_url");
                if (isFile) value = value.isArray() ? Json.MAPPER.valueToTree(urls) : urls.getFirst();
                inputs.put(name, value);
            });
            return inputs;
        }

        /// Returns the run's line for the results. Another program may have sent the run, so the attempt is created
        /// here, with the user that Dify recorded.
        Results.Success success(Row row) {
            var user = RunReader.text(stored, "sys.user_id");
            // an earlier attempt without tries and edits; its mode and time are unknown, and the line has neither
            var attempt = new Attempt(0, row, Attempt.Tries.NONE, user, Mode.AUTO, row.hash(), Instant.EPOCH, false);
            var end = Instant.ofEpochSecond(detail.path("finished_at").asLong());
            var took = Duration.ofMillis((long) (ran.usage().seconds() * 1000));
            return new Results.Success(attempt, ran, end, took, Response.SavedFiles.NONE);
        }
    }

    /// Holds a chatflow's message as the server has stored it, or a missing node.
    record StoredMessage(JsonNode message) {
        private String text(String name) {
            return RunReader.text(message, name);
        }

        /// Returns the run of a message that has waited for a person. Returns empty for other messages, because only
        /// forms contain the id of their run.
        Optional<RunRef> pausedRun() {
            return message.path("extra_contents").valueStream()
                    .map(extra -> RunReader.text(extra, "workflow_run_id")).filter(id -> !id.isEmpty())
                    .findFirst().map(id -> new RunRef(id, ""));
        }

        /// Completes a run's success with its message, whose text counts because moderation may have replaced the
        /// run's. The run's own answer counts if the message may contain only a part of it (after a pause), or none (up
        /// to 1.10, if the stream's client disconnected).
        LookUpResult completing(LookUpResult found) {
            if (!(found instanceof LookUpResult.Ended(var ran, var inputs)) || !ran.status().isSuccess()) return found;
            var outputs = Json.MAPPER.createObjectNode();
            outputs.setAll(ran.outputs());
            if (!text("answer").isEmpty() && pausedRun().isEmpty()) outputs.put("answer", text("answer"));
            return new LookUpResult.Ended(ran.with(chat(), RunReader.withSources(outputs, message)), inputs);
        }

        /// Returns the outcome. A message has no answer until its run has ended; Dify 1.16 then also reports its time.
        LookUpResult result() {
            var sent = RunReader.sentCells(message.path("inputs"));
            if (message.path("query").isTextual()) sent.put("query", text("query"));
            if (text("status").equals("error"))
                return new LookUpResult.Ended(Response.Ran.failed(text("error")), sent);
            double seconds = message.path("provider_response_latency").asDouble(0);
            if (text("answer").isEmpty() || text("status").equals("paused"))
                return new LookUpResult.Unanswered(seconds > 0);
            var outputs = Json.MAPPER.createObjectNode().put("answer", text("answer"));
            return new LookUpResult.Ended(
                    Response.Ran.answered(RunReader.withSources(outputs, message), seconds, chat()), sent);
        }

        private Response.ChatMessage chat() {
            return new Response.ChatMessage(text("conversation_id"), text("id"),
                    message.path("total_tokens").asLong(0), RunReader.price(message), text("currency"));
        }
    }

    /// Speaks HTTP/1.1 to Dify: sends one request at a time and reads its response. Any failure becomes a [Response].
    static final class Transport implements AutoCloseable {
        /// Limits the wait for a connection. Without it, the operating system waits for minutes if a host does not
        /// respond at all.
        private static final Duration CONNECT_TIMEOUT = Duration.ofSeconds(20);
        /// A run whose stream has been silent for so long is looked up. Dify sends a ping every 10 s during a run.
        static final Duration QUIET = Duration.ofSeconds(30);
        /// Limits the part of a refusal that is read. Dify 1.14 and later may quote the whole request, of any size.
        private static final int REFUSAL_BYTES = 64 << 10;
        /// Sets how often the time limits of responses are checked, so each may be exceeded by that.
        private static final int TICK_MILLIS = 100;
        /// Is part of the JDK's message for a server without TLS: `Unsupported or unrecognized SSL message`.
        private static final String NO_TLS = "recognized SSL message";

        /// Limits a response, in bytes. While it is read, it takes up to ten times as much memory.
        private final long maxBytes;
        private final ExecutorService tasks = Executors.newVirtualThreadPerTaskExecutor();
        private final HttpClient.Builder builder; // kept for further clients, see [#lastBody]
        /// Loads while the caller reads its files, because loading takes a quarter of a second.
        private volatile CompletableFuture<HttpClient> http;
        private final Optional<URI> proxy;
        /// Holds the responses that are being read. One thread checks all of them, because a timer for each would cost
        /// more.
        private final Set<Answer> open = ConcurrentHashMap.newKeySet();
        private final ScheduledExecutorService clock = Executors.newSingleThreadScheduledExecutor(
                Thread.ofPlatform().daemon().name("watches").factory());

        /// Creates the client on another thread, because that takes a quarter of a second.
        Transport(Access access, long maxBytes) {
            this.maxBytes = maxBytes;
            this.proxy = access.proxy();
            // a client that follows a redirection may turn the POST into a GET, and could send the key elsewhere;
            // Dify's server does not speak HTTP/2; only our own settings choose a proxy, not the JDK's
            this.builder = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).executor(tasks)
                    .followRedirects(HttpClient.Redirect.NEVER).connectTimeout(CONNECT_TIMEOUT)
                    .proxy(HttpClient.Builder.NO_PROXY);
            proxy.ifPresent(this::setProxy);
            access.caFile().ifPresent(setting -> builder.sslContext(trusting(setting)));
            this.http = CompletableFuture.supplyAsync(builder::build, tasks);
            tasks.execute(() -> Json.MAPPER.reader()); // loads the JSON reader meanwhile
            clock.scheduleWithFixedDelay(() -> open.forEach(Answer::tick), TICK_MILLIS, TICK_MILLIS, MILLISECONDS);
        }

        /// Returns the bytes that each of several runs may have in its response, so that all of them fit into memory.
        /// At least 1 MiB is allowed, because with a small heap and a high `-c` hardly any response would be accepted.
        static long share(int runs) {
            return Math.max(1 << 20, Runtime.getRuntime().maxMemory() / (10L * runs));
        }

        /// Sets the proxy, with its user and password if the URL contains them.
        private void setProxy(URI proxy) {
            int port = proxy.getPort() < 0 ? 80 : proxy.getPort();
            builder.proxy(ProxySelector.of(new InetSocketAddress(proxy.getHost(), port)));
            if (proxy.getUserInfo() == null) return;
            var login = proxy.getUserInfo().split(":", 2);
            var password = login.length > 1 ? login[1] : "";
            builder.authenticator(new Authenticator() {
                @Override
                protected PasswordAuthentication getPasswordAuthentication() {
                    if (getRequestorType() != RequestorType.PROXY) return null; // the server gets no password
                    return new PasswordAuthentication(login[0], password.toCharArray());
                }
            });
        }

        /// Trusts the certificates of a file in addition to the system's. One process may need both, because outputs
        /// can contain links to files on public servers.
        private static SSLContext trusting(Env.Setting setting) {
            try (var in = Files.newInputStream(Path.of(setting.text()))) {
                var store = KeyStore.getInstance(KeyStore.getDefaultType());
                store.load(null, null); // creates an empty store
                var factory = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
                factory.init((KeyStore) null); // loads the system's certificates
                for (var manager : factory.getTrustManagers())
                    if (manager instanceof X509TrustManager system)
                        for (var issuer : system.getAcceptedIssuers())
                            store.setCertificateEntry("system" + store.size(), issuer);
                for (var own : CertificateFactory.getInstance("X.509").generateCertificates(in))
                    store.setCertificateEntry("own" + store.size(), own);
                factory.init(store);
                var context = SSLContext.getInstance("TLS");
                context.init(null, factory.getTrustManagers(), null); // no keys of our own, default random numbers
                return context;
            } catch (IOException | GeneralSecurityException | InvalidPathException problem) {
                // without the setting's text, because a key may have been pasted into the wrong line
                throw new Unusable(setting.place() + ": " + Text.reason(problem).replace(setting.text(), "…")
                        + ": not a PEM file of certificates");
            }
        }

        /// Drops all connections, because nobody waits for their responses any more.
        @Override
        public void close() {
            http.join().shutdownNow();
            clock.shutdownNow();
            tasks.shutdownNow();
        }

        /// Sends the request, reads the response and releases the connection. A request that did not leave has started
        /// nothing, but any other request may have started a run, so the two failures have different results.
        ///
        /// @param limit   the time until the response's header, and until its end unless the reader sets another limit
        /// @param overdue the symptom to report when the limit passes
        <T> DifyClient.Reply<T> exchange(HttpRequest.Builder request, Duration limit, Symptom overdue,
                BodyHandler<InputStream> body, IOFunction<Answer, DifyClient.Reply<T>> reading) {
            long start = System.nanoTime();
            try (var answer = new Answer(http.join().send(request.timeout(limit).build(), body), start)) {
                answer.limit(limit.minus(answer.waited));
                try {
                    return reading.apply(answer);
                } catch (IOException problem) {
                    // a stream that is too large is looked up instead, because its run may still be active
                    return new DifyClient.Reply.NotGot<>(problem instanceof Exceeded && !answer.isStream
                            ? new Response.Unreadable(Optional.empty(), problem.getMessage())
                            : answer.cut(overdue, "the connection broke in the middle of the response ("
                                    + Text.reason(problem) + ")"));
                }
            } catch (IOException | IllegalArgumentException problem) { // IllegalArgument…: the head is malformed
                boolean isOverdue = problem instanceof HttpTimeoutException && !isBeforeSending(problem);
                return new DifyClient.Reply.NotGot<>(isOverdue
                        ? new Response.Cut(overdue, "no response within " + Text.seconds(limit)) : unsent(problem));
            } catch (InterruptedException _) {
                Thread.currentThread().interrupt(); // so that a caller does not ask again
                return new DifyClient.Reply.NotGot<>(new Response.Cut(Symptom.NO_ANSWER, "cancelled"));
            }
        }

        /// Returns that the request did not leave, if the exception or one of its causes shows that. Otherwise the
        /// connection broke after the request may have left.
        private Response unsent(Throwable problem) {
            var causes = Stream.iterate(problem, Objects::nonNull, Throwable::getCause).toList();
            var cause = causes.stream().filter(Transport::isBeforeSending).findFirst();
            if (cause.isEmpty()) return new Response.Cut(Symptom.NO_ANSWER,
                    "the connection broke before a response (" + Text.reason(problem) + ")");
            var through = proxy.map(by -> ", through the proxy " + by.getHost()).orElse("");
            var lasting = causes.stream().flatMap(each -> lastingFailure(each, through).stream()).findFirst();
            return lasting.orElseGet(() -> new Response.NotSent(Text.reason(cause.get()) + through, ""));
        }

        /// Recognizes failures that recur until the server or a setting changes, so that the batch stops instead of
        /// trying again. The JDK has no exception of its own for some of them, so its messages decide.
        private static Optional<Response.NotSent> lastingFailure(Throwable problem, String through) {
            var words = Objects.requireNonNullElse(problem.getMessage(), "");
            return switch (problem) {
                case CertPathBuilderException _ -> Optional.of(new Response.NotSent("the server's certificate is not "
                        + "trusted" + through, "DIFY_CA_FILE can add the authority that issued it"));
                case CertificateExpiredException _, CertificateNotYetValidException _ -> Optional.of(
                        new Response.NotSent("the server's certificate is not valid at this time" + through,
                                "renew it, or set the clock of this machine"));
                // such as "No name matching host found"
                case CertificateException _ when words.startsWith("No ") -> Optional.of(new Response.NotSent(
                        "the server's certificate is for another host" + through,
                        "set DIFY_API_BASE_URL to the host that the certificate names"));
                case SSLException _ when words.contains(NO_TLS) -> Optional.of(new Response.NotSent(
                        "the server answers without TLS" + through,
                        "set DIFY_API_BASE_URL to http://, or to the server's https port"));
                default -> Optional.empty();
            };
        }

        /// Returns whether this failure shows that no byte of the request has left. Everything else counts as sent.
        private static boolean isBeforeSending(Throwable problem) {
            return problem instanceof ConnectException || problem instanceof HttpConnectTimeoutException
                    || problem instanceof UnresolvedAddressException || problem instanceof UnknownHostException
                    || problem instanceof SSLHandshakeException
                    || problem instanceof SSLException && String.valueOf(problem.getMessage()).contains(NO_TLS);
        }

        private static boolean isOf(HttpHeaders headers, String type) {
            return headers.firstValue("Content-Type").orElse("").startsWith(type);
        }

        /// Reads the body of a run's response, and does not use its connection again. Nothing in a blocking response
        /// shows which row it belongs to. If a broken proxy sent one response too many, each later row would get that
        /// of the row before. A stream needs none of this, because its first event contains the user.
        BodySubscriber<InputStream> lastBody(HttpResponse.ResponseInfo head) {
            var body = BodySubscribers.ofInputStream();
            if (isOf(head.headers(), "text/event-stream")) return body;
            long length = head.headers().firstValueAsLong("Content-Length").orElse(0);
            if (length > 0) return new LastBody(body, length);
            // without a length, the JDK keeps this connection for the client's next request, so the next request gets
            // another client; a request that is about to be sent can still use this one for a moment
            synchronized (this) { // otherwise two responses could replace one client, and one would never be closed
                clock.schedule(http.join()::shutdown, TICK_MILLIS, MILLISECONDS);
                http = CompletableFuture.completedFuture(builder.build());
            }
            return body;
        }

        /// Closes the connection of a body after its last byte. If the subscription is cancelled, the JDK closes the
        /// connection instead of keeping it. Its later signals (an error or the end) no longer count.
        private static final class LastBody implements BodySubscriber<InputStream> {
            private final BodySubscriber<InputStream> body;
            private Flow.Subscription connection;
            private long left; // bytes that are still to come

            LastBody(BodySubscriber<InputStream> body, long length) {
                this.body = body;
                this.left = length;
            }

            @Override
            public CompletionStage<InputStream> getBody() {
                return body.getBody();
            }

            @Override
            public void onSubscribe(Flow.Subscription connection) {
                this.connection = connection;
                body.onSubscribe(connection);
            }

            @Override
            public void onNext(List<ByteBuffer> more) {
                for (var buffer : more) left -= buffer.remaining();
                body.onNext(more);
                if (left > 0) return;
                connection.cancel();
                body.onComplete();
            }

            @Override
            public void onError(Throwable problem) {
                if (left > 0) body.onError(problem);
            }

            @Override
            public void onComplete() {
                if (left > 0) body.onComplete();
            }
        }

        /// Reads a response within a time limit, because the JDK's own limit ends at the header. A worker reads it,
        /// and the clock's thread closes it when the limit is over, so the fields that both use are volatile.
        final class Answer implements AutoCloseable {
            final int status;
            final boolean isPage, isStream;
            /// Dify's version; empty if something in front of Dify has responded.
            final String version;
            final Duration waited; // for the response's header
            private final HttpResponse<InputStream> http;
            private final BufferedReader lines; // null unless the response is a stream
            private volatile long end, lastByte; // nanoseconds, as in System.nanoTime
            private volatile long left; // bytes that may still be read
            private volatile boolean isOver = false; // whether the limit has closed the response
            private volatile Consumer<StreamEvent> heard;
            private volatile Optional<RunRef> run = Optional.empty();

            Answer(HttpResponse<InputStream> http, long start) {
                this.http = http;
                this.waited = Duration.ofNanos(System.nanoTime() - start);
                this.status = http.statusCode();
                this.isPage = isOf(http.headers(), "text/html");
                this.isStream = isOf(http.headers(), "text/event-stream");
                this.version = header("X-Version").orElse("");
                this.lines = isStream ? new BufferedReader(new InputStreamReader(body(), UTF_8)) : null;
            }

            Optional<String> header(String name) {
                return http.headers().firstValue(name).map(String::strip);
            }

            /// Returns the wait that the server asks for, as seconds or an HTTP date. Returns empty for anything else,
            /// so that the back-off decides how long to wait.
            Optional<Duration> retryAfter() {
                // nine digits are 30 years; more could exceed the range of a time
                return header("Retry-After").filter(text -> text.matches("\\d{1,9}")).map(Long::parseLong)
                        .map(Duration::ofSeconds).or(() -> date("Retry-After")
                                .map(until -> Duration.between(Instant.now(), until))
                                .filter(Duration::isPositive));
            }

            /// Returns the time in a header. A header that cannot be read counts as missing.
            Optional<Instant> date(String name) {
                try {
                    return header(name).map(DateTimeFormatter.RFC_1123_DATE_TIME::parse).map(Instant::from);
                } catch (DateTimeException _) {
                    return Optional.empty();
                }
            }

            /// Returns the run whose id the stream's first event contained.
            Optional<RunRef> run() {
                return run;
            }

            InputStream body() {
                return body(maxBytes, "the response is too large for the available memory; lower -c, or set "
                        + "JDK_JAVA_OPTIONS=-Xmx4g");
            }

            /// Returns the body, which fails with `tooLarge` after a number of bytes. Notes when the last bytes came,
            /// because a ping keeps a stream alive although it is not an event.
            InputStream body(long most, String tooLarge) {
                left = most;
                return new FilterInputStream(http.body()) {
                    @Override
                    public int read(byte[] into, int from, int length) throws IOException {
                        int count = super.read(into, from, length);
                        lastByte = System.nanoTime();
                        left -= Math.max(0, count);
                        if (left < 0) throw new Exceeded(tooLarge);
                        return count;
                    }

                    /// Counts one byte less, because the JDK counts a broken connection as one byte. Otherwise a reader
                    /// could run into the break before it has passed on the events before it.
                    @Override
                    public int available() throws IOException {
                        return Math.max(0, super.available() - 1);
                    }
                };
            }

            String beginning() throws IOException {
                return new String(http.body().readNBytes(REFUSAL_BYTES), UTF_8);
            }

            /// Returns the next event that can be read, and skips events that were cut off. Returns empty if the stream
            /// has ended.
            Optional<JsonNode> event() throws IOException {
                while (true) {
                    left = maxBytes; // the limit applies to each event, because a long run has many
                    var data = Transport.event(lines);
                    if (data.isEmpty()) return Optional.empty();
                    try {
                        return Optional.of(Json.MAPPER.readTree(data.get()));
                    } catch (JsonProcessingException _) {
                        // the run is looked up if its final event does not follow
                    }
                }
            }

            boolean hasMore() throws IOException {
                return lines.ready();
            }

            void limit(Duration limit) {
                end = System.nanoTime() + limit.toNanos();
                open.add(this);
            }

            /// Starts the second phase of a stream, in which another time limit applies and silence is reported. The
            /// run is set after the fields that [#tick] then reads.
            void began(RunRef run, Duration limit, Consumer<StreamEvent> heard) {
                this.lastByte = System.nanoTime();
                this.heard = heard;
                this.run = Optional.of(run);
                limit(limit);
                heard.accept(new StreamEvent.Began(run));
            }

            /// Closes the response if its time is over, which wakes up its reader. Reports a silent stream every 30 s.
            void tick() {
                long now = System.nanoTime();
                if (now - end >= 0) {
                    isOver = true;
                    close();
                } else if (run.isPresent() && now - lastByte >= QUIET.toNanos()) {
                    lastByte = now; // so that the next report follows after the same time
                    heard.accept(new StreamEvent.Idle(run.get()));
                }
            }

            /// Returns that the body ended early. `why` is the reason, unless the time limit ended it.
            ///
            /// @param silence the symptom if the limit was over before the first event
            Response.Cut cut(Symptom silence, String why) {
                if (!isOver) return new Response.Cut(run, Symptom.CUT, why);
                var symptom = run.isPresent() ? Symptom.TIMED_OUT : silence;
                return new Response.Cut(run, symptom, "the response was incomplete at the time limit");
            }

            @Override
            public void close() {
                open.remove(this);
                try {
                    http.body().close();
                } catch (IOException _) {
                    // the body's reader gets an exception of its own
                }
            }
        }

        /// Returns the data of the next server-sent event. Returns empty if the stream has ended, which may have cut
        /// the last event off. A ping has no `data:` line, and later versions of Dify add `id:` lines, so all other
        /// lines are skipped.
        static Optional<String> event(BufferedReader lines) throws IOException {
            var data = new ArrayList<String>();
            for (var line = lines.readLine(); line != null; line = lines.readLine()) {
                if (line.isEmpty() && !data.isEmpty()) break;
                if (line.startsWith("data:")) data.add(line.substring(line.startsWith("data: ") ? 6 : 5));
            }
            return data.isEmpty() ? Optional.empty() : Optional.of(String.join("\n", data));
        }

        /// Signals that a response is too large or nested too deeply. Asking again would not help.
        static final class Exceeded extends IOException {
            Exceeded(String message) {
                super(message);
            }
        }
    }

    // ── Batch ───────────────────────────────────────────────────────────────────────────────────────────────────────
    //
    // entry       the number of an id in the index; for an id of the CSV, this is also the number of its row
    // unresolved  a row may have been sent, and its outcome must be looked up before it may be sent again
    // doubtful    the results have become shorter, so the server's empty list does not show that nothing was started
    // resent      a row was sent again while no run of an earlier attempt was known
    // late        the run of such an earlier attempt appeared after all, so the row may have been paid for twice
    // torn        a last line that is incomplete because of a crash or a full disk

    // Batch: what the files contain

    /// Holds everything known about a batch, from its files and, if there is one, the CSV. `offsets` are filled only
    /// for commands that show single rows, because they take 16 bytes per line.
    record Batch(BatchFiles files, Optional<Csv> csv, Index index, History history, LineOffsets offsets) {
        /// Sees each line that counts while the files are read, so that nobody reads them a second time.
        interface Listener {
            /// Takes a success. `line` is valid only during the call.
            void result(int entry, Lines line) throws IOException;

            /// Takes an event of the log. `at` is the offset of its line in the file.
            default void event(Index index, Event event, long at) {}
        }

        /// Reads the files without their lock, while another process may be writing them. A row whose result is written
        /// after the results were read still counts as in flight.
        ///
        /// @param showsRows whether single rows will be shown, for which the offsets of their lines are kept
        static Batch peek(BatchFiles files, Optional<Csv> whole, boolean showsRows, List<Listener> also) {
            var csv = whole.map(all -> all.with(files.shard()));
            var offsets = new LineOffsets();
            var listeners = Stream.concat(showsRows ? Stream.of(offsets) : Stream.empty(),
                    also.stream()).toList();
            return Storage.naming(files.results(), () -> {
                var index = readIndex(files, csv);
                var history = History.of(files, index, listeners);
                history.noteResultsSize(files.resultsSize()); // if it is less than the log recorded, lines were lost
                return new Batch(files, csv, index, history, offsets);
            });
        }

        /// Returns a batch of these rows as if none had run, to check them before `--fresh` moves the files aside. Only
        /// the first lines of the results and the log are read, to see that the files are ours.
        static Batch ofRows(BatchFiles files, Csv whole) throws IOException {
            var csv = whole.with(files.shard());
            var index = readIndex(files, Optional.of(csv));
            return new Batch(files, Optional.of(csv), index, new History(index), new LineOffsets());
        }

        Figures figures() {
            return history.figures();
        }

        /// Reads the ids of the CSV. Files of another program are refused first, because reading a CSV can take long;
        /// only the retry list has to wait, because the ids show whether it is ours. Without a CSV, the index stays
        /// empty until the files are read.
        static Index readIndex(BatchFiles files, Optional<Csv> csv) throws IOException {
            files.requireOurs();
            if (csv.isEmpty()) return new Index();
            var index = Index.of(csv.get(), _ -> {}); // nobody inspects the rows
            files.requireOurs(index);
            return index;
        }

        /// Rejects a CSV that lacks rows of the results, because the export would leave them out.
        void refuseStrangers(Path input) {
            long strangers = index.size() - index.rows();
            if (strangers > 0) throw new Unusable(input + ": lacks " + Text.count(strangers, "id") + " of "
                    + files.results() + " (first: " + Text.id(index.id(index.rows()))
                    + ")", "check that this is the right CSV; --force exports its rows anyway");
        }

        /// Returns the CSV files of this command and of the last session, which no output may overwrite.
        List<Path> inputs() {
            return Stream.concat(csv.map(known -> known.file().input()).stream(),
                    history.input(files.results()).stream()).toList();
        }

        /// Refuses a CSV with none of the batch's rows. All of its rows would run, and the results would belong to two
        /// files. A merge with it would move the shards aside and show none of their rows.
        ///
        /// @param hint continues the hint with an option that accepts the CSV, if the command has one
        void refuseOtherFile(Path input, String hint) {
            long others = index.size() - index.rows();
            // without other ids, the rows have no lines because none of them has run yet
            boolean isOther = others > 0 && IntStream.range(0, index.rows()).noneMatch(history::hasLines);
            if (isOther) throw new Unusable(input + ": " + files.results() + " has "
                    + Text.count(others, "id") + ", and none of them is in this file (first: "
                    + Text.id(index.id(index.rows())) + ")", "check that this is the right CSV" + hint);
        }

        /// Returns the wanted rows, or none if there is no CSV. The hashes make sure that no row has changed since the
        /// index was made.
        Iterator<Row> rows(IntPredicate wanted) {
            var entries = entrySet(IntStream.range(0, index.rows()).filter(wanted));
            return csv.map(known -> known.rows(entries, index::fingerprint)).orElse(Collections.emptyIterator());
        }

        /// Returns the entry of a row. Rejects an unknown id and suggests up to three ids that differ from it in at
        /// most half of its letters.
        ///
        /// @param where begins the message, such as `--ids: `
        int requireEntry(String id, String where) {
            int entry = index.find(id);
            if (index.isRow(entry)) return entry;
            var near = Nearest.of(id, IntStream.range(0, index.rows()).mapToObj(index::id),
                    Math.max(2, id.length() / 2), 3); // at least 2, because r1 would otherwise match nothing
            throw new Unusable(where + "no row has the id " + Text.quoted(id), near.isEmpty() ? ""
                    : "did you mean " + near.stream().map(Text::id).collect(joining(", ")) + "?");
        }

        /// Describes the rows of a session: the ids in `.retry`, the given ids, or all rows.
        ///
        /// @param listed        whether the rows are those in `.retry`
        /// @param ids           the ids given to `retry`; empty for all rows or those in `.retry`
        /// @param force         whether rows that have succeeded run again
        /// @param among         the ids of `--ids`, which limit the rows further; empty for no further limit
        /// @param limit         the largest number of rows
        /// @param seed          if present, the rows are chosen at random; otherwise they are the first in the CSV
        /// @param rerunChanged  whether succeeded rows that have changed in the CSV since then run again
        /// @param resendUnknown whether rows with an unknown outcome are sent again, which may pay twice
        /// @param pendingOnly   whether rows with any outcome are left out
        record Selection(boolean listed, List<String> ids, boolean force, List<String> among, long limit,
                OptionalLong seed, boolean rerunChanged, boolean resendUnknown, boolean pendingOnly) {
            /// `PENDING` is what `run` selects without options, and `LISTED` what `retry` selects without ids. Neither
            /// has a limit.
            static final Selection PENDING = pending(false, false),
                    LISTED = new Selection(true, List.of(), false, List.of(), Long.MAX_VALUE,
                            OptionalLong.empty(), false, false, false);

            /// Selects all rows that have not succeeded, or only those without any outcome.
            static Selection pending(boolean pendingOnly, boolean rerunChanged) {
                return new Selection(false, List.of(), false, List.of(), Long.MAX_VALUE,
                        OptionalLong.empty(), rerunChanged, false, pendingOnly);
            }

            /// Selects rows by id, or all rows if there are no ids. A user who types an id has decided to send its row
            /// again, even if its outcome is unknown.
            static Selection named(List<String> ids, boolean force) {
                return new Selection(false, List.copyOf(ids), force, List.of(), Long.MAX_VALUE,
                        OptionalLong.empty(), false, !ids.isEmpty(), false);
            }

            /// Selects a random sample of the pending rows. Failed rows are left out, because the sample must resemble
            /// the pending rows that are forecast from it.
            Selection random(long rows, long seed) {
                return new Selection(listed, ids, force, among, rows, OptionalLong.of(seed), rerunChanged,
                        resendUnknown, true); // true: only pending rows
            }

            boolean isLimited() {
                return limit < Long.MAX_VALUE;
            }

            boolean isSample() {
                return seed.isPresent();
            }

            /// Returns whether rows that are not selected may stay pending after this session.
            boolean isPart() {
                return listed || !ids.isEmpty() || !among.isEmpty() || isLimited();
            }
        }

        /// Holds the rows of one session. A row is in `fresh` if it can be sent at once, and in `lookUps` if an earlier
        /// run must be looked up first.
        record Wanted(Batch batch, BitSet fresh, List<Unresolved> lookUps, Selection asked) {
            /// Returns the entries of all rows of the session.
            BitSet entries() {
                var all = (BitSet) fresh.clone();
                lookUps.forEach(unresolved -> all.set(unresolved.attempt().row().index()));
                return all;
            }

            long rows() {
                return fresh.cardinality() + lookUps.size();
            }

            /// Counts the rows that had this status before the session.
            long count(RowStatus status) {
                return entries().stream().filter(entry -> batch.index().status(entry) == status).count();
            }
        }

        /// Finds the rows of a session, and divides them into those that can be sent and those whose earlier run is
        /// looked up first. The limit or sample comes last, because it counts only rows that will take part.
        ///
        /// @param timeout how long a run may take; a look-up waits no longer than that for a run that is still active
        Wanted select(Selection asked, Duration timeout) throws IOException {
            // `.retry` may have ids that the CSV lacks, for which there is no row to send
            var rows = asked.listed() ? entrySet(files.retryIds().stream().mapToInt(index::find).filter(index::isRow))
                    : asked.ids().isEmpty() ? entrySet(IntStream.range(0, index.rows())) : entriesOf(asked.ids(), "");
            // an id that was typed is refused; below, other selections leave succeeded rows out
            if (!asked.ids().isEmpty() && !asked.force())
                rows.stream().filter(entry -> index.status(entry).isSuccess()).findFirst().ifPresent(entry -> {
                    throw new Unusable("row " + Text.id(index.id(entry))
                            + " has already succeeded", "--force runs the row, and pays for it, again");
                });
            if (!asked.among().isEmpty()) rows.and(entriesOf(asked.among(), "--ids: "));
            var changed = asked.rerunChanged() ? entrySet(history.changed()) : new BitSet();
            if (!asked.force()) rows.andNot(entrySet(rows.stream()
                    .filter(entry -> index.status(entry).isSuccess() && !changed.get(entry))));
            if (asked.pendingOnly()) rows.andNot(entrySet(rows.stream()
                    .filter(entry -> index.status(entry) != RowStatus.PENDING)));
            // a retry would ask the person again, so it takes an explicit id
            if (asked.ids().isEmpty()) rows.andNot(entrySet(history.failedAfterForm()));
            if (asked.isSample()) sample(rows, asked.limit(), new Random(asked.seed().getAsLong()));
            else rows.stream().skip(asked.limit()).findFirst().ifPresent(rest -> rows.clear(rest, rows.length()));
            var lookUps = new ArrayList<Unresolved>();
            var unresolved = history.unresolvedByRow();
            if (!unresolved.isEmpty()) // otherwise the CSV is not read again
                rows(entry -> rows.get(entry) && unresolved.containsKey(entry)).forEachRemaining(row ->
                        lookUps.add(history.unresolved(unresolved.get(row.index()), row, timeout)));
            lookUps.forEach(one -> rows.clear(one.attempt().row().index()));
            return new Wanted(this, rows, lookUps, asked);
        }

        /// Keeps `count` rows, each with the same chance to stay. Knuth's algorithm S needs no list of rows. It keeps a
        /// row with the chance `wanted / left`. The same seed keeps the same rows.
        private static void sample(BitSet rows, long count, Random random) {
            long left = rows.cardinality(), wanted = count;
            for (int entry = rows.nextSetBit(0); entry >= 0; entry = rows.nextSetBit(entry + 1)) {
                boolean isChosen = random.nextDouble() * left-- < wanted;
                if (isChosen) wanted--;
                else rows.clear(entry);
            }
        }

        /// Returns the entries of these ids. Skips ids of other shards, so that one command line serves all shards.
        private BitSet entriesOf(List<String> ids, String where) {
            return entrySet(ids.stream().map(String::strip)
                    .filter(id -> files.shard().map(shard -> shard.holds(id)).orElse(true))
                    .mapToInt(id -> requireEntry(id, where)));
        }

        private static BitSet entrySet(IntStream entries) {
            return entries.collect(BitSet::new, BitSet::set, BitSet::or);
        }
    }

    // Batch: writing

    /// Writes a batch: results, log and retry list. It holds the lock, so no other process writes them. Every line goes
    /// three steps: it is added, [#write] puts it into its file, and [#commit] writes the file to disk (fsync).
    static final class BatchWriter implements AutoCloseable {
        /// Lines that nothing waits for, such as a `run` event, are on disk after at most this time. An fsync for each
        /// of them would keep the engine waiting for the disk.
        private static final Duration FORCE_EVERY = Duration.ofMillis(500);
        /// The retry list is rewritten as a whole, so it is not written after each row.
        private static final Duration RETRY_LIST_EVERY = Duration.ofSeconds(2);
        /// After the retry list was written, the next one waits for this many times as long as it took. Thus a long
        /// list takes at most a tenth of the engine's time.
        private static final int RETRY_LIST_REST = 9;

        private final Batch batch;
        private final BatchFiles.Lock lock;
        private final LineFile results, log;
        private final LineFile.Disk disk;
        /// Holds the changes of the state that follow from added lines, in their order. They are applied after the
        /// lines are in the files, so that no row counts as done whose line could not be written.
        private final List<Runnable> effects = new ArrayList<>();
        /// `mustForce` is true if something waits for added lines to be on disk.
        private boolean mustForce = false, retryListDue = false, cannotForceNoted = false;
        /// `hasAttempts` is true if an attempt was added, and `hasSent` if one is on disk and may have been sent.
        private boolean hasAttempts = false, hasSent = false;
        private long nextRetryList = 0; // by System.nanoTime()
        private Instant nextForce = Instant.MIN; // so that the first commit does not wait
        private volatile long forcingSince = 0; // by System.nanoTime(); 0 while no fsync is in progress

        private BatchWriter(Batch batch, BatchFiles.Lock lock, LineFile results, LineFile log, LineFile.Disk disk) {
            this.batch = batch;
            this.lock = lock;
            this.results = results;
            this.log = log;
            this.disk = disk;
        }

        /// Opens a batch to continue it, or a new one. The order of the steps matters. Files of another program and
        /// faults of the CSV are found before a lock file appears. After the lock, torn last lines are repaired before
        /// the files are read. The files are locked against other programs only after they were read, because a process
        /// loses its locks on a file when it closes any channel of that file.
        ///
        /// @param fresh where `--fresh` prints that it moved the earlier batch aside; empty to continue the batch
        static BatchWriter open(BatchFiles files, Csv whole, boolean noBom,
                Optional<PrintWriter> fresh, LineFile.Disk disk) {
            var csv = whole.with(files.shard());
            try {
                return Storage.naming(files.results(), () -> {
                    var index = Batch.readIndex(files, Optional.of(csv));
                    var lock = files.acquire();
                    var results = new LineFile(files.results(), noBom ? new byte[0] : Lines.BOM, disk);
                    // the log has no byte order mark, because the original tool has no log
                    var log = new LineFile(files.log(), new byte[0], disk);
                    try {
                        if (fresh.isPresent()) {
                            // without a history, because the batch starts from scratch
                            Shards.refuseOthers(files, csv, Optional.empty());
                            files.moveAside(fresh.get());
                        }
                        var torn = Stream.of(log.repair(), results.repair()).flatMap(Optional::stream).toList();
                        var history = History.of(files, index, List.of());
                        history.unreadable().ifPresent(note -> {
                            throw new Unusable(note + "; if one records a run, its row could be sent again",
                                    "restore the file from a backup; without the line, its row may be paid for again");
                        });
                        if (fresh.isEmpty()) Shards.refuseOthers(files, csv, Optional.of(history));
                        log.hold();
                        results.hold();
                        results.force(); // the log will record that so many bytes of the results are on disk
                        history.noteResultsSize(results.onDisk());
                        var batch = new Batch(files, Optional.of(csv), index, history, new LineOffsets());
                        var writer = new BatchWriter(batch, lock, results, log, disk);
                        torn.forEach(log::add);
                        log.write();
                        return writer;
                    } catch (IOException | RuntimeException problem) {
                        try (lock; results; log) { // closes all three, even if one of them fails, and then throws
                            throw problem;
                        }
                    }
                });
            } catch (UncheckedIOException problem) {
                throw new Unusable(Text.reason(problem));
            }
        }

        Batch batch() {
            return batch;
        }

        RowStatus status(Row row) {
            return batch.index().status(row.index());
        }

        /// Returns the size of the results on disk, which the log's events record. A later session that finds a smaller
        /// file can tell that results were lost.
        long resultsOnDisk() {
            return results.onDisk();
        }

        /// Adds an event to the log. It counts after [#write].
        void record(Event event) {
            log.add(event);
            effects.add(() -> batch.history().take(event));
            hasAttempts |= event instanceof AttemptEvent;
            // an attempt must be on disk before its request leaves, and a session's start before its results
            mustForce |= event instanceof AttemptEvent || event instanceof SessionEvent;
        }

        /// Records that a row has succeeded. Its line in the results is the only record of that, so that results and
        /// log cannot contradict each other.
        void recordSuccess(Results.Success success) {
            results.add(success.json());
            effects.add(() -> batch.history().take(success.head()));
            markOutcome();
        }

        /// Records an outcome of a row other than success.
        void recordEnd(EndEvent end) {
            record(end);
            markOutcome();
        }

        private void markOutcome() {
            mustForce = true; // an outcome is shown only after it is on disk
            retryListDue = true;
        }

        /// Writes the added lines into the files, and then applies their effects, which limits count. The results come
        /// first, because a result whose log cannot be written is still counted by the next session.
        void write() {
            results.write();
            log.write();
            var written = List.copyOf(effects);
            effects.clear(); // before they run, so that none is applied twice
            written.forEach(Runnable::run);
            if (retryListDue && System.nanoTime() >= nextRetryList) writeRetryList();
        }

        /// Writes the retry list, and sets the earliest time for the next one by how long this took.
        private void writeRetryList() {
            long began = System.nanoTime();
            batch.files().writeRetryList(batch.index());
            retryListDue = false;
            long ended = System.nanoTime();
            nextRetryList = ended + Math.max(RETRY_LIST_EVERY.toNanos(), RETRY_LIST_REST * (ended - began));
        }

        /// Writes what was added to the files. Writes the files to disk at once if anything waits for that, and
        /// otherwise every 500 ms. After this, attempts may be sent and outcomes shown.
        void commit(Instant now, Consumer<String> say) {
            write();
            if (!mustForce && now.isBefore(nextForce)) return;
            nextForce = now.plus(FORCE_EVERY);
            force();
            if (cannotForceNoted || !log.cannotForce()) return; // the results are in the same folder as the log
            cannotForceNoted = true;
            say.accept("The file system of " + batch.files().log()
                    + " does not support fsync. "
                    + "After a power loss, the log may lack runs that you paid for.");
        }

        private void force() {
            forcingSince = System.nanoTime() | 1; // never 0, which means that no fsync is in progress
            try {
                if (results.isForced() || log.isForced()) { // at most one file needs an fsync
                    results.force();
                    log.force();
                } else forceBoth();
            } finally {
                forcingSince = 0;
            }
            mustForce = false;
            hasSent = hasAttempts;
        }

        /// Writes both files to disk at the same time. A file system with a journal then writes its journal only once,
        /// which takes half the time or less.
        private void forceBoth() {
            var first = CompletableFuture.runAsync(results::force, Thread::startVirtualThread);
            try {
                log.force();
            } finally {
                first.handle((_, problem) -> problem).join(); // waits, but does not throw
            }
            results.force(); // throws the error of the other thread, if there was one
        }

        /// Returns how long the disk has been busy with the current write. May be called from any thread.
        Duration forcingFor() {
            long since = forcingSince;
            return since == 0 ? Duration.ZERO : Duration.ofNanos(System.nanoTime() - since);
        }

        /// Returns whether the disk has been busy for so long that the user should be informed. May be called from any
        /// thread.
        boolean isDiskSlow() {
            return forcingFor().compareTo(disk.patience()) > 0;
        }

        /// Records that a session is over. `stop`, if present, is the reason why it stopped early.
        void recordStop(Instant now, Optional<Stop> stop) {
            write();
            force(); // so that the event contains the final size of the results
            // without user and task, because the session stops and not a single run
            record(new StopEvent(now, stop.map(Stop::what).orElse(""), "", "", resultsOnDisk()));
            write(); // [#finish] writes it to disk
        }

        /// Writes everything, including the retry list, to disk and closes the files, even if a write fails. This
        /// happens before the summary, so that no error appears after the last message. Returns the error, if there was
        /// one.
        Optional<Stop> finish() {
            try (this) {
                write();
                force();
                writeRetryList();
                return Optional.empty();
            } catch (UncheckedIOException problem) {
                return Optional.of(unwritable(problem.getCause()));
            }
        }

        /// Returns the reason to stop after a failed write. Exit code 2 means that nothing was sent, and 4 that runs
        /// may have been paid for. If another program changed a file, starting again is not safe, because attempts may
        /// be missing from the log.
        Stop unwritable(IOException problem) {
            return new Stop(hasSent ? Exit.STOPPED : Exit.UNUSABLE, "cannot write: " + Text.reason(problem)
                    + "; the last lines of this session may be missing", problem instanceof LineFile.Touched
                    ? "restore the file before you run this again: a run that is not in the log is not looked up"
                    : "check the disk, then run the same command again: it looks up what is missing");
        }

        @Override
        public void close() {
            try (lock; results; log) {} // the lock is released last, after the files are closed
        }
    }

    // Batch: rows and figures

    /// Holds the ids of a batch, and the line, hash and status of each. They are packed into about forty bytes per id,
    /// without objects, so that a million rows fit into 40 MB. Entries are numbered in the order in which they came.
    /// The ids of the CSV come first, so that the number of an entry is also the number of its row.
    static final class Index {
        private static final RowStatus[] STATUSES = RowStatus.values(); // values() makes a copy each time

        private final Texts ids = new Texts();
        /// `places` holds for each entry where its id is in `ids` (upper 32 bits) and the line of its row (lower 32
        /// bits). `fingerprint` holds the hash of its row, or 0 if the CSV lacks the row.
        private final LongList places = new LongList(), fingerprint = new LongList(), statuses = new LongList();
        private final SequencedSet<String> versions = new LinkedHashSet<>();
        private int ofOtherShards = 0;
        private int rows = -1; // -1 until the end of the CSV is reached, and without a CSV
        /// Counts the rows by status. The limits need these counts after every row, and a scan of a million rows would
        /// take too long.
        private final long[] counts = new long[STATUSES.length];
        private final BitSet toRetry = new BitSet(); // spares the retry list such a scan
        /// Holds a hash table of the ids with open addressing. If a slot is taken, the next one is tried. At most two
        /// thirds of it are full, because searches get long otherwise. A slot holds the number of an entry plus one, or
        /// 0 if it is free. Its length is a power of two, so that a bit mask keeps a slot in range.
        private int[] table = new int[4096]; // 16 KB; it grows with the batch

        /// Reads the ids of a CSV, or of its shard, into a new index.
        ///
        /// @param inspector takes each row that has a usable id
        static Index of(Csv csv, Consumer<Row> inspector) {
            var index = new Index();
            index.endOfRows(csv.check(row -> {
                var fault = index.addRow(row, csv.file());
                if (fault.isEmpty()) inspector.accept(row);
                return fault;
            }));
            return index;
        }

        /// Adds the row's id. Returns what is wrong with the id, or empty if it is new.
        Optional<String> addRow(Row row, TextFile file) {
            int known = size(), entry = add(row.id(), row.line(), row.fingerprint());
            return entry == known ? Optional.empty() : Optional.of("duplicate id " + Text.quoted(row.id())
                    + " (first seen on " + file.where(line(entry), 0) + ")");
        }

        /// Returns the entry of this id, or -1 if the id is unknown.
        int find(String id) {
            return table[slot(id.getBytes(UTF_8))] - 1;
        }

        /// Adds an id unless it is there. Returns its entry, whether it is new or not.
        int add(String id, long line, long hash) {
            if (size() >= table.length / 3 * 2) { // makes the table twice as long and enters all ids again
                table = new int[table.length * 2];
                for (int entry = 0; entry < size(); entry++) table[slot(ids.get(place(entry)))] = entry + 1;
            }
            var bytes = id.getBytes(UTF_8);
            int slot = slot(bytes);
            if (table[slot] == 0) {
                places.add((long) ids.add(bytes) << Integer.SIZE | Math.toIntExact(line));
                fingerprint.add(hash);
                statuses.add(RowStatus.PENDING.ordinal());
                table[slot] = size();
                if (isRow(size() - 1)) counts[RowStatus.PENDING.ordinal()]++;
            }
            return table[slot] - 1;
        }

        /// Adds an id that the CSV lacks, without line and hash, unless it is there.
        int findOrAdd(String id) {
            return add(id, 0, 0);
        }

        /// Marks the end of the CSV's ids. Ids that are added later are only in the batch's files.
        void endOfRows(int ofOtherShards) {
            rows = size();
            this.ofOtherShards = ofOtherShards;
        }

        int rowsOfOtherShards() {
            return ofOtherShards;
        }

        /// Notes the version that made a result. A version that is known already moves to the end.
        void madeBy(String version) {
            versions.addLast(version);
        }

        /// Returns the versions of the workflow that made results. The version of the last result comes last, because a
        /// session reports when the version changes.
        SequencedSet<String> versions() {
            return Collections.unmodifiableSequencedSet(versions);
        }

        /// Returns the number of rows in the CSV, or the number of known ids if there is no CSV.
        int rows() {
            return rows < 0 ? size() : rows;
        }

        int size() {
            return places.size();
        }

        /// Returns whether the entry is a row of the CSV. Without a CSV, every known id counts as a row, so that views
        /// show what the files contain.
        boolean isRow(int entry) {
            return entry >= 0 && (rows < 0 || entry < rows);
        }

        String id(int entry) {
            return new String(ids.get(place(entry)), UTF_8);
        }

        long line(int entry) {
            return (int) places.get(entry); // the cast keeps the lower 32 bits
        }

        long fingerprint(int entry) {
            return fingerprint.get(entry);
        }

        RowStatus status(int entry) {
            return STATUSES[(int) statuses.get(entry)];
        }

        /// Returns the rows for the retry list, in the CSV's order. Ids that the CSV lacks are not included.
        IntStream onRetryList() {
            return toRetry.stream();
        }

        /// Sets the status of an entry. Only rows of the CSV are counted, because totals are about the CSV.
        void setStatus(int entry, RowStatus status) {
            if (isRow(entry)) {
                counts[status(entry).ordinal()]--;
                counts[status.ordinal()]++;
                toRetry.set(entry, status.isOnRetryList());
            }
            statuses.set(entry, status.ordinal());
        }

        long count(RowStatus status) {
            return counts[status.ordinal()];
        }

        /// Returns whether every row of the CSV has succeeded.
        boolean isComplete() {
            return succeeded() == rows();
        }

        /// Returns how many rows have succeeded. Partial successes count, because their results are kept, too.
        long succeeded() {
            return count(RowStatus.SUCCEEDED) + count(RowStatus.PARTIAL);
        }

        /// Returns where the id of an entry is in `ids`.
        private int place(int entry) {
            return (int) (places.get(entry) >>> Integer.SIZE);
        }

        /// Returns the slot of the id in the table, or the free slot in which to put it. Ids often differ only in their
        /// last digits, so the hash is multiplied (2³² divided by the golden ratio) and its upper bits are mixed in to
        /// spread them over the table.
        private int slot(byte[] id) {
            int hash = Arrays.hashCode(id) * 0x9E3779B9, mask = table.length - 1, slot = (hash ^ hash >>> 15) & mask;
            while (table[slot] != 0 && !Arrays.equals(ids.get(place(table[slot] - 1)), id)) slot = slot + 1 & mask;
            return slot;
        }

        /// Holds short texts as bytes, one behind the other in blocks of 1 MiB, each after its length. A place is a
        /// number of 32 bits: 12 bits for the block and 20 bits for the offset in it, enough for 4 GiB of ids. A longer
        /// text gets a block of its own.
        private static final class Texts {
            private static final int OFFSET_BITS = 20, BLOCK_SIZE = 1 << OFFSET_BITS;

            private final List<ByteBuffer> blocks = new ArrayList<>();

            /// Adds a text and returns its place. A text is never divided between two blocks, so the rest of a block
            /// may stay empty.
            int add(byte[] text) {
                int room = Integer.BYTES + text.length;
                if (blocks.isEmpty() || blocks.getLast().remaining() < room) {
                    blocks.add(ByteBuffer.allocate(Math.max(BLOCK_SIZE, room)));
                }
                var block = blocks.getLast();
                int place = blocks.size() - 1 << OFFSET_BITS | block.position();
                block.putInt(text.length).put(text);
                return place;
            }

            byte[] get(int place) {
                var block = blocks.get(place >>> OFFSET_BITS);
                int head = place & BLOCK_SIZE - 1;
                var text = new byte[block.getInt(head)];
                block.get(head + Integer.BYTES, text);
                return text;
            }
        }
    }

    /// Counts what the lines of a batch, or of one session, contain. [History] passes on each line after it was read or
    /// written, so that a session and a later `status` show the same figures. All figures that people see come from
    /// here, except the number of rows by status in the whole batch, which [Index] counts.
    static class Figures {
        private final Usage.Spending spending = new Usage.Spending();
        private final BitSet sent = new BitSet(), succeeded = new BitSet();
        /// Holds the duration of each row's last attempt with an outcome, in milliseconds plus one, because 0 means
        /// that it is unknown.
        private final LongList took = new LongList();
        private final SortedMap<Integer, Integer> missingFiles = new TreeMap<>(); // by entry
        private final Map<Class<?>, Long> eventCounts = new HashMap<>();
        private long stopped = 0; // counts runs
        private Optional<Instant> startedAt = Optional.empty(), updatedAt = Optional.empty();
        /// Holds the duration of all sessions, each up to its last event.
        private Duration timeTaken = Duration.ZERO;
        /// Holds when the current session got its last result. The log has no event for a success, so `timeTaken` does
        /// not include this time.
        private Instant lastResult = Instant.MIN;
        /// Holds the starts of the current session, and those of the last session that had enough rows.
        private Starts starts = new Starts(), lastEnough = starts;

        /// Takes an event of the log. Attempts, outcomes and the end of a session extend the session's time up to
        /// them. The time between two sessions does not count.
        void take(Event event) {
            eventCounts.merge(event.getClass(), 1L, Long::sum);
            switch (event) {
                case SessionEvent started -> {
                    timeTaken = timeTaken.plus(untilLastResult(started.t()));
                    lastResult = Instant.MIN;
                    updatedAt = Optional.of(started.t()); // the time since the last session does not count
                    advanceTo(started.t()); // adds nothing, but may set the start of the batch
                    if (starts.isEnough()) lastEnough = starts; // `starts` still holds those of the session before
                    starts = new Starts();
                }
                case AttemptEvent attempt -> {
                    advanceTo(attempt.t());
                    if (attempt.n() == 0) starts.addStart(attempt.t()); // not a retry, which starts no other row
                }
                case EndEvent end -> {
                    advanceTo(end.t());
                    starts.addEnd(end.t());
                }
                case StopEvent stop -> {
                    if (stop.user().isEmpty()) advanceTo(stop.t()); // the session stopped, not a single run
                    if (stop.isOfInterruptedRun()) stopped++;
                }
                case MergeEvent _, RunEvent _, FormEvent _, LookEvent _, HarvestEvent _, ThrottleEvent _, LateEvent _,
                        TornEvent _ -> {} // only their number matters; the next event above includes their time
            }
        }

        /// Counts a row that was sent. The figures of a session also use the time.
        void countSent(int entry, Instant at) {
            sent.set(entry);
        }

        /// Adds the tokens and the price of a run.
        ///
        /// @param price null if it is not known
        void countSpending(int entry, long tokens, BigDecimal price, String currency) {
            spending.add(tokens, price, currency);
        }

        /// Notes how many files of a row's outputs could not be saved. The row's last result counts.
        void noteMissingFiles(int entry, int missing) {
            if (missing == 0) missingFiles.remove(entry);
            else missingFiles.put(entry, missing);
        }

        /// Records a row's outcome. A failure does not replace an earlier success.
        ///
        /// @param former  the row's status before
        /// @param seconds null if unknown, as in results of the original tool
        void countOutcome(int entry, RowStatus former, Outcome outcome, Double seconds) {
            if (outcome.status().isSuccess()) succeeded.set(entry);
            else if (former.isSuccess()) return;
            // at most 31 bits, because `compare` packs the milliseconds and a row's number into one long
            if (seconds != null) took.set(entry, 1 + Math.min(Integer.MAX_VALUE, Math.round(seconds * 1000)));
        }

        /// Extends the session's time to the end of this attempt, which produced the row's result.
        void extendToResult(AttemptEvent attempt, int entry) {
            var end = attempt.t().plusMillis(millis(entry).orElse(0));
            if (end.isAfter(lastResult)) lastResult = end;
            starts.addEnd(end);
        }

        /// Adds the time since the last event of the session.
        private void advanceTo(Instant now) {
            if (startedAt.isEmpty()) startedAt = Optional.of(now);
            var passed = updatedAt.map(before -> Duration.between(before, now)).orElse(Duration.ZERO);
            if (passed.isNegative()) return; // the clock was set back
            timeTaken = timeTaken.plus(passed);
            updatedAt = Optional.of(now);
        }

        /// Returns the time from the session's last event to its last result. It ends at `most`, the start of the next
        /// session, because that session counts the time after its start.
        private Duration untilLastResult(Instant most) {
            var last = lastResult.isBefore(most) ? lastResult : most;
            return updatedAt.filter(last::isAfter)
                    .map(updated -> Duration.between(updated, last)).orElse(Duration.ZERO);
        }

        /// Returns the duration of all sessions, without the time between them.
        Duration timeTaken() {
            return timeTaken.plus(untilLastResult(Instant.MAX)); // no session has followed
        }

        /// Returns how many rows ran at a time in the last session that had enough rows, or in the last session if none
        /// had enough.
        double concurrency(double secondsPerRow) {
            return (lastEnough.isEnough() && !starts.isEnough() ? lastEnough : starts).concurrency(secondsPerRow);
        }

        /// Records when a session started its rows. Rows that started before the first row ended filled the slots. Each
        /// later row followed a row that had ended. The time after the last start is left out, because slots are empty
        /// then.
        private static final class Starts {
            /// Fewer rows, such as a retry of two, do not show how many rows ran at a time.
            private static final int ENOUGH_ROWS = 5;

            private Instant first = Instant.MAX, last = Instant.MIN, firstEnd = Instant.MAX;
            private long filling = 0, following = 0; // count rows

            void addStart(Instant at) {
                if (at.isBefore(first)) first = at;
                last = at;
                if (at.isBefore(firstEnd)) filling++;
                else following++;
            }

            void addEnd(Instant at) {
                if (at.isBefore(firstEnd)) firstEnd = at;
            }

            boolean isEnough() {
                return filling + following >= ENOUGH_ROWS;
            }

            /// Returns the mean number of rows that ran at a time. This is how many rows started per second times how
            /// long a row takes (Little's law). With few following rows, all slots were filled once, which shows the
            /// number.
            double concurrency(double secondsPerRow) {
                if (following <= filling) return filling;
                return following * secondsPerRow * 1000 / Math.max(1, Duration.between(first, last).toMillis());
            }
        }

        Optional<Instant> startedAt() {
            return startedAt;
        }

        /// Returns when the last event or result was recorded.
        Optional<Instant> updatedAt() {
            return updatedAt.map(updated -> lastResult.isAfter(updated) ? lastResult : updated);
        }

        /// Returns how long the row's last attempt with an outcome took.
        OptionalLong millis(int entry) {
            long known = took.get(entry);
            return known == 0 ? OptionalLong.empty() : OptionalLong.of(known - 1);
        }

        /// Returns percentiles of the latency of succeeded rows, in seconds, or an empty map if there are none. A
        /// percentile is the duration of a row (nearest rank), never a value between two rows.
        Map<String, Double> latencies() {
            var sorted = succeeded.stream().mapToObj(this::millis).flatMapToLong(OptionalLong::stream).sorted()
                    .toArray();
            var named = new LinkedHashMap<String, Double>();
            if (sorted.length > 0) object("p50", 0.5, "p90", 0.9, "p99", 0.99, "max", 1.0).forEach((name, share) ->
                    named.put(name, sorted[(int) Math.ceil((double) share * sorted.length) - 1] / 1000.0));
            return named;
        }

        Usage.Spending spending() {
            return spending;
        }

        boolean isSent(int entry) {
            return sent.get(entry);
        }

        /// Returns how many events of this kind were counted.
        long count(Class<? extends Event> kind) {
            return eventCounts.getOrDefault(kind, 0L);
        }

        /// Returns how many attempts were made beyond the first of each row.
        long retries() {
            return count(AttemptEvent.class) - sent.cardinality();
        }

        /// Returns the number of runs that Dify was asked to stop.
        long stopped() {
            return stopped;
        }

        /// Returns for each row, by its entry, how many of its output files could not be downloaded.
        SortedMap<Integer, Integer> missingFiles() {
            return Collections.unmodifiableSortedMap(missingFiles);
        }
    }

    // Batch: the state that earlier sessions left

    /// Holds what the results and the log contain: lines of earlier sessions when they are read, the results first, and
    /// lines of this session after they were written. An attempt is kept until nothing is left to learn about it. This
    /// is what each kind of line does to the attempts of its row:
    ///
    /// | line | effect on the attempts |
    /// | --- | --- |
    /// | a result | its attempt is dropped, and so are `NOT_STARTED` and each `RESENT` whose run is known |
    /// | `attempt` | `OPEN`; `NOT_STARTED` without a run becomes `RESENT`; all but `RESENT` and `OPEN` are dropped |
    /// | `end` not_started, resent | `NOT_STARTED` |
    /// | `end` unknown, paused | `UNSETTLED` |
    /// | `end` failed | dropped, but `NOT_STARTED` without a run stays |
    /// | any other `end` | dropped, and `UNSETTLED` with it |
    /// | `late` | `RESENT` is dropped, or keeps the run if that may still give the row a success |
    ///
    /// If the results are shorter than the log last recorded, all attempts become doubtful, because their results may
    /// be among the lost lines.
    static final class History {
        /// Holds the outcomes of an `end` event after which a row may be sent again although its attempt had no result.
        private static final Set<String> NOT_STARTED = Set.of("not_started", "resent");
        private static final double BILLION = 1e9;

        private final Index index;
        private final Map<String, List<Sent>> sent = new LinkedHashMap<>(); // by id
        private final Set<String> stoppedTasks = new HashSet<>();
        /// Holds the hash of the attempt that made each row's last line in the results. The results are read before the
        /// log, which has no `end` event of a success, so an `attempt` event is over if its hash is here.
        private final LongList lastResult = new LongList();
        /// Holds the hashes of attempts that made earlier lines of a row. Only rows with several results need it.
        private final Set<Long> formerResults = new HashSet<>();
        private final Map<Integer, EndEvent> ends = new HashMap<>(); // of rows that have not succeeded, by entry
        private final Map<String, List<FormEvent>> forms = new HashMap<>(); // by user
        private final LongList attemptsByRow = new LongList();
        private final BitSet changed = new BitSet(), failedAfterForm = new BitSet();
        private final Figures figures = new Figures();
        /// Holds the figures of the batch and those of the session that this process runs.
        private final List<Figures> counting = new ArrayList<>(List.of(figures));
        /// Holds the tokens of each row over all its attempts.
        private final LongList tokensByRow = new LongList();
        /// Holds the cost of each row over all its attempts, by currency. It is in billionths, because a list of whole
        /// numbers takes less memory than one of objects.
        private final Map<String, LongList> costByRow = new HashMap<>();
        private final List<String> unreadable = new ArrayList<>();
        private final Map<Class<?>, Event> last = new HashMap<>(); // by kind of event
        Optional<Mode> mode = Optional.empty(); // the last mode that the tool chose itself
        private Optional<String> stopped = Optional.empty();
        /// Holds the last session until its end is in the log, and is empty afterwards.
        private Optional<SessionEvent> unfinished = Optional.empty();
        private Instant newestBegun = Instant.MIN; // see [#newestBegun()]
        /// Holds the size of the results in bytes, according to the last event that contains it.
        private long resultsSize = 0;

        /// Describes what is still unknown about an attempt. Before a row runs, its most urgent attempt is looked up.
        /// The constants are in order of urgency, the least urgent first:
        ///
        /// - `RESENT`: The row was sent again after it. It is only looked for when the session ends, as a `late` run.
        /// - `UNSETTLED`: Its outcome is unknown, or its run waits for a person.
        /// - `NOT_STARTED`: It counted as not started, or `--resend-unknown` gave it up, so its row may be sent again.
        /// - `OPEN`: The log contains no `end` event of it.
        enum State { RESENT, UNSETTLED, NOT_STARTED, OPEN }

        /// Holds an attempt that was sent, and what the later lines about it showed.
        ///
        /// @param server      Dify's version, which decides where its run can be found
        /// @param isElsewhere whether it is only assumed, by `--same-app`, that later sessions use the attempt's app
        /// @param isDoubtful  whether its result may be among the lost lines of the results
        record Sent(AttemptEvent event, String server, Optional<RunRef> run, State state, boolean isElsewhere,
                boolean isDoubtful) {
            Sent(AttemptEvent event, String server) {
                this(event, server, Optional.empty(), State.OPEN, false, false);
            }

            /// Returns the attempt with this run, or unchanged if `run` is empty. An `end` event contains no task, so a
            /// known task of the same run is kept.
            Sent with(String run, String task) {
                if (run.isEmpty()) return this;
                var known = this.run.filter(ref -> task.isEmpty() && ref.id().equals(run));
                return new Sent(event, server, known.or(() -> Optional.of(new RunRef(run, task))), state, isElsewhere,
                        isDoubtful);
            }

            /// Returns the attempt in another state. The methods below also return changed copies.
            Sent as(State state) {
                return new Sent(event, server, run, state, isElsewhere, isDoubtful);
            }

            Sent asElsewhere() {
                return new Sent(event, server, run, state, true, isDoubtful);
            }

            Sent asDoubtful(boolean isDoubtful) {
                return new Sent(event, server, run, state, isElsewhere, isDoubtful);
            }

            /// Returns this attempt for the row. It does not count as edited if the CSV now contains the edits that it
            /// was sent with.
            Attempt attempt(Row row) {
                // the hash of a row that is still edited includes the edits, so it does not show what the CSV contains
                boolean isEdited = event.edited() && (row.isEdited() || !event.fingerprint().equals(row.hash()));
                // sequence 0 marks an attempt of an earlier session, whose tries count only as earlier ones
                return new Attempt(0, row, new Attempt.Tries(0, 0, event.n()), event.user(), event.mode(),
                        event.fingerprint(), event.t(), isEdited);
            }
        }

        History(Index index) {
            this.index = index;
        }

        /// Reads results, log and retry list. The results come first, because they show which attempts of the log have
        /// succeeded. An id that is only in the retry list failed in the original tool, which has no log.
        static History of(BatchFiles files, Index index, List<Batch.Listener> listeners) throws IOException {
            var history = new History(index);
            history.unreadable.addAll(Results.read(files.results(), history, listeners));
            history.read(files.log(), listeners);
            files.retryIds().forEach(history::takeListed);
            return history;
        }

        void read(Path log, List<Batch.Listener> listeners) throws IOException {
            unreadable.addAll(Event.scan(log, (event, line) -> {
                // the session comes first, so no event of another format counts
                if (event instanceof SessionEvent session) session.requireFormat(log);
                take(event);
                listeners.forEach(listener -> listener.event(index, event, line.place()));
            }));
        }

        /// Returns the figures of the whole batch, from the lines taken so far.
        Figures figures() {
            return figures;
        }

        /// Adds the figures of this session, which count all later lines.
        void count(Figures session) {
            counting.add(session);
        }

        /// Returns the last event of this kind, or empty if there was none.
        <T extends Event> Optional<T> last(Class<T> kind) {
            return Optional.ofNullable(kind.cast(last.get(kind)));
        }

        /// Takes an event of the log, when it is read or after it was written.
        void take(Event event) {
            if (event.results() >= 0) noteResultsSize(event.results()); // -1 if the event lacks the size
            last.put(event.getClass(), event);
            counting.forEach(one -> one.take(event));
            switch (event) {
                case SessionEvent started -> takeSession(started);
                case MergeEvent merged -> takeMerge(merged);
                case AttemptEvent attempt -> takeAttempt(attempt);
                case RunEvent run -> takeRun(run);
                case FormEvent form -> forms.computeIfAbsent(form.user(), _ -> new ArrayList<>(1)).add(form);
                case EndEvent end -> takeEnd(end);
                case LateEvent found -> takeLate(found);
                case StopEvent stop -> takeStop(stop);
                case LookEvent _, HarvestEvent _, ThrottleEvent _, TornEvent _ -> {} // they change no attempt
            }
        }

        /// Notes the size of the results according to an event or to the file. If it is smaller than before, lines are
        /// missing, and any attempt may be the one whose result is lost.
        void noteResultsSize(long size) {
            if (size < resultsSize) doubt(_ -> true);
            resultsSize = size;
        }

        private void doubt(Predicate<String> isIdDoubtful) {
            sent.forEach((id, row) -> row.replaceAll(one -> one.asDoubtful(isIdDoubtful.test(id))));
        }

        /// Takes a merge. Only attempts of a shard whose results had been longer are doubtful afterwards. The logs of
        /// the shards are merged by time, so the sizes in their events belong to different files and made attempts
        /// doubtful without reason.
        private void takeMerge(MergeEvent merged) {
            doubt(id -> merged.cut().contains(Shard.of(id, merged.shards()).index()));
        }

        /// Takes a stop event. Without a user, the session ended; with a user, Dify was asked to stop one task.
        private void takeStop(StopEvent stop) {
            if (stop.user().isEmpty()) {
                stopped = Optional.of(stop.why()).filter(why -> !why.isEmpty());
                unfinished = Optional.empty();
            } else if (stop.isOfInterruptedRun()) stoppedTasks.add(stop.task());
        }

        /// Sets the status of a row; no other method does. A success is never replaced by another status. Returns
        /// whether the row got this status.
        private boolean settle(int entry, RowStatus status) {
            boolean isKept = index.status(entry).isSuccess() && !status.isSuccess();
            if (!isKept) index.setStatus(entry, status);
            return !isKept;
        }

        /// Takes a success, when its line is read or after it was written. Returns the entry of its row. If an id has
        /// several lines, the last one counts.
        int take(Results.Success.Head success) {
            int entry = index.findOrAdd(success.id().strip()); // as the CSV's ids are
            var former = index.status(entry);
            settle(entry, success.outcome().status());
            if (!success.workflowId().isEmpty()) index.madeBy(success.workflowId());
            spend(entry, success.totalTokens(), success.totalPrice(), success.currency());
            counting.forEach(one -> one.countOutcome(entry, former, success.outcome(), success.seconds()));
            counting.forEach(one -> one.noteMissingFiles(entry, success.missing().size()));
            // a row that the CSV lacks, an edited row and a line of the original tool cannot be compared
            changed.set(entry, index.fingerprint(entry) != 0 && !success.edited() && !success.fingerprint().isEmpty()
                    && !success.fingerprint().equals(HexFormat.of().toHexDigits(index.fingerprint(entry))));
            ends.remove(entry);
            if (lastResult.get(entry) != 0) formerResults.add(lastResult.get(entry));
            lastResult.set(entry, hash(entry, success.user()));
            // a session measures its own time, so only the batch's figures need the attempt
            remove(success.id(), one -> one.event().user().equals(success.user()))
                    .ifPresent(one -> figures.extendToResult(one.event(), entry));
            // a resent attempt without a run stays, because its run may still appear and was paid for, too
            remove(success.id(), one -> one.state() == State.NOT_STARTED
                    || one.state() == State.RESENT && one.run().isPresent());
            return entry;
        }

        /// Returns whether the results contain a line of this attempt.
        private boolean hasResult(int entry, String user) {
            long attempt = hash(entry, user);
            return lastResult.get(entry) == attempt || formerResults.contains(attempt);
        }

        /// Identifies an attempt by a number, which takes less memory than a text. The upper 32 bits are the entry plus
        /// one, so that no number is 0, and the lower 32 bits are the hash of its user.
        private static long hash(int entry, String user) {
            return entry + 1L << Integer.SIZE | user.hashCode() & 0xFFFF_FFFFL;
        }

        /// Takes an id of the retry list. An id that is only there failed in the original tool, which has no log.
        void takeListed(String id) {
            int entry = index.findOrAdd(id);
            if (index.status(entry) == RowStatus.PENDING) settle(entry, RowStatus.FAILED);
        }

        /// Takes the start of a session. A process logs another start when it changes its mode; its session then goes
        /// on. After `--same-app`, nothing shows that earlier attempts went to the present app.
        private void takeSession(SessionEvent started) {
            stopped = Optional.empty();
            if (!unfinished.map(SessionEvent::process).equals(Optional.ofNullable(started.process())))
                unfinished = Optional.of(started);
            if (started.auto()) mode = Optional.ofNullable(started.mode()); // a mode that was typed does not last
            if (started.sameApp()) sent.values().forEach(row -> row.replaceAll(Sent::asElsewhere));
        }

        /// Returns whether the batch's files contain anything about this row.
        boolean hasLines(int entry) {
            return index.status(entry) != RowStatus.PENDING || attemptsByRow.get(entry) > 0;
        }

        /// Adds the tokens and the price of a run to its row and to all figures.
        ///
        /// @param price null if it is not known
        private void spend(int entry, long tokens, BigDecimal price, String currency) {
            counting.forEach(one -> one.countSpending(entry, tokens, price, currency));
            tokensByRow.set(entry, tokensByRow.get(entry) + tokens);
            if (price == null) return;
            var costs = costByRow.computeIfAbsent(currency, _ -> new LongList());
            costs.set(entry, costs.get(entry) + Math.round(price.doubleValue() * BILLION));
        }

        long tokens(int entry) {
            return tokensByRow.get(entry);
        }

        int attempts(int entry) {
            return (int) attemptsByRow.get(entry);
        }

        /// Returns the cost of a row over all its attempts, or 0 if none is known in this currency.
        double cost(int entry, String currency) {
            var costs = costByRow.get(currency);
            return costs == null ? 0 : costs.get(entry) / BILLION;
        }

        /// Takes an attempt that is about to be sent. The row's former attempts follow the table above. An attempt
        /// whose success is in the results is over, because the results were read before.
        private void takeAttempt(AttemptEvent attempt) {
            int entry = index.findOrAdd(attempt.id());
            counting.forEach(one -> one.countSent(entry, attempt.t()));
            attemptsByRow.set(entry, attemptsByRow.get(entry) + 1);
            failedAfterForm.clear(entry); // it was sent again on purpose
            remove(attempt.id(), one -> one.state() == State.NOT_STARTED).filter(one -> one.run().isEmpty())
                    .ifPresent(one -> add(one.as(State.RESENT)));
            remove(attempt.id(), one -> one.state() == State.UNSETTLED);
            if (hasResult(entry, attempt.user())) figures.extendToResult(attempt, entry);
            else add(new Sent(attempt, last(SessionEvent.class).map(SessionEvent::server).orElse("")));
        }

        /// Takes the run of an attempt. The first event of a stream also shows that Dify's queue has got to this
        /// attempt, so streams that were sent before it are no longer waiting. A blocking run never waits in the queue.
        private void takeRun(RunEvent run) {
            // a new list, because `List.of()` supports no replacing
            sent.getOrDefault(run.id(), new ArrayList<>()).replaceAll(one -> {
                if (!one.event().user().equals(run.user()) || one.state() != State.OPEN) return one;
                boolean isStream = one.event().mode() == Mode.STREAMING;
                if (isStream && one.event().t().isAfter(newestBegun)) newestBegun = one.event().t();
                return one.with(run.run(), run.task());
            });
        }

        /// Takes the end of an attempt without a success. Its cost always counts, its outcome only if it is one of the
        /// row. Outcomes such as `again` leave the row pending.
        private void takeEnd(EndEvent end) {
            int entry = index.findOrAdd(end.id());
            spend(entry, end.tokens(), end.price(), end.currency());
            if (hasResult(entry, end.user())) return; // a look-up found later that the attempt had succeeded
            // mode and retries are made up if the attempt is not known any more, because a look-up needs only its user
            var known = remove(end.id(), one -> one.event().user().equals(end.user()))
                    .orElseGet(() -> new Sent(new AttemptEvent(end.t(), end.id(), 0, end.user(), Mode.BLOCKING,
                            end.fingerprint(), end.edited(), 0), "")).with(end.run(), "");
            remove(end.id(), one -> one.state() == State.UNSETTLED);
            if (NOT_STARTED.contains(end.outcome())) add(known.as(State.NOT_STARTED));
            var status = end.status();
            if (status.isEmpty()) return;
            // what is unknown or paused is looked up later; a failure keeps an attempt whose run may still appear
            if (status.get() != RowStatus.FAILED) add(known.as(State.UNSETTLED));
            else if (known.state() == State.NOT_STARTED && known.run().isEmpty()) add(known);
            var former = index.status(entry);
            var outcome = new Outcome(status.get(), end.error());
            counting.forEach(one -> one.countOutcome(entry, former, outcome, end.seconds()));
            if (!settle(entry, status.get())) return;
            failedAfterForm.set(entry, Judge.isAfterForm(end.error(), former == RowStatus.PAUSED));
            ends.put(entry, end);
        }

        /// Takes the run of an attempt whose row was sent again. While it is active and the row has no success, its
        /// result can still be taken, so the attempt is kept with this run. Otherwise nothing is left to learn about
        /// it.
        private void takeLate(LateEvent found) {
            int entry = index.findOrAdd(found.id());
            remove(found.id(), one -> one.state() == State.RESENT && one.event().user().equals(found.user()))
                    .filter(_ -> Set.of("running", "paused").contains(found.saw())
                            && !index.status(entry).isSuccess())
                    .ifPresent(one -> add(one.with(found.run(), "")));
        }

        private void add(Sent one) {
            sent.computeIfAbsent(one.event().id(), _ -> new ArrayList<>(1)).add(one); // a row seldom has two
        }

        /// Removes these attempts of a row. Returns the last of them.
        private Optional<Sent> remove(String id, Predicate<Sent> which) {
            var row = sent.get(id);
            if (row == null) return Optional.empty();
            Sent last = null; // a loop, because a stream for each of a million lines takes much longer
            for (var left = row.listIterator(); left.hasNext(); ) {
                var one = left.next();
                if (!which.test(one)) continue;
                last = one;
                left.remove();
            }
            if (row.isEmpty()) sent.remove(id);
            return Optional.ofNullable(last);
        }

        int unreadableLines() {
            return unreadable.size();
        }

        /// Returns a note about the lines that cannot be read, with the places of the first three, or empty if there
        /// are none.
        Optional<String> unreadable() {
            return unreadable.isEmpty() ? Optional.empty() : Optional.of(Text.count(unreadable.size(), "line")
                    + " cannot be read (" + Text.joinFirst(3, unreadable.stream()) + ")");
        }

        /// Returns the CSV of the last session, if it is still there.
        Optional<Path> input(Path results) {
            return last(SessionEvent.class).flatMap(last -> last.input(results)).filter(Files::isRegularFile);
        }

        /// Returns the session that another process of this machine is running, or empty. The lock is not tested,
        /// because a test takes it for a moment, and a command that starts at that moment would fail.
        Optional<SessionEvent> liveSession() {
            return unfinished.filter(session -> session.process() != null && session.process().isOtherAlive());
        }

        /// Returns why the last session stopped early, or empty if the log contains no reason.
        Optional<String> stopped() {
            return stopped;
        }

        /// Returns the rows that succeeded but have changed in the CSV since then.
        IntStream changed() {
            return changed.stream();
        }

        /// Returns the rows whose run failed after its form was answered, so that they are not sent again unasked.
        IntStream failedAfterForm() {
            return failedAfterForm.stream();
        }

        /// Returns the last `end` event of a row that has not succeeded, or empty if there is none.
        Optional<EndEvent> end(int entry) {
            return Optional.ofNullable(ends.get(entry));
        }

        /// Returns why a row failed or is unresolved, including the titles of the forms that it waits for. A row that
        /// is only listed in `.retry` has no recorded cause.
        String cause(int entry) {
            return end(entry).map(end -> Stream.concat(Stream.of(Text.cause(end.error())), forms(entry)
                    .map(FormEvent::node)).distinct().collect(joining(": "))).orElse("listed in .retry");
        }

        /// Returns the forms for which the run of a paused row waits. The log lacks them if the response did.
        Stream<FormEvent> forms(int entry) {
            if (index.status(entry) != RowStatus.PAUSED) return Stream.empty();
            return end(entry).stream().flatMap(end -> forms.getOrDefault(end.user(), List.of()).stream());
        }

        /// Returns whether another retry is unlikely to help, because the row had more than one attempt or because Dify
        /// refused it with an HTTP 4xx status.
        boolean isPermanent(int entry) {
            return attemptsByRow.get(entry) > 1 || end(entry).filter(end -> end.http() / 100 == 4).isPresent();
        }

        /// Returns the attempts in these states, of all rows.
        private Stream<Sent> all(Predicate<State> which) {
            return sent.values().stream().flatMap(List::stream).filter(one -> which.test(one.state()));
        }

        /// Returns whether the log already records this attempt as not started. If the row was sent again since then,
        /// the log must not record this twice, because the later attempt is the one to look up first.
        boolean isClosed(Attempt attempt, String end) {
            var closed = EnumSet.of(State.NOT_STARTED, State.RESENT);
            return NOT_STARTED.contains(end) && sent.getOrDefault(attempt.row().id(), List.of()).stream()
                    .anyMatch(one -> closed.contains(one.state()) && one.event().user().equals(attempt.user()));
        }

        /// Counts the attempts that have no end in the log. They are running, or were interrupted. An attempt of a row
        /// that has succeeded otherwise does not matter any more.
        long inFlight() {
            return all(state -> state == State.OPEN)
                    .filter(one -> !index.status(index.find(one.event().id())).isSuccess()).count();
        }

        /// Returns the rows whose results may be lost. They have no result, and the results file was longer before.
        List<Integer> lost() {
            return all(_ -> true).filter(Sent::isDoubtful).map(one -> index.find(one.event().id()))
                    .filter(entry -> !index.status(entry).isSuccess()).distinct().sorted().toList();
        }

        /// Returns the attempts whose row was sent again. Their rows have no line (0) and no cells, because the
        /// attempts are only looked for.
        ///
        /// @param hasRun true for the attempts whose run has appeared and may still succeed, false for the others
        List<Attempt> resent(boolean hasRun) {
            return all(state -> state == State.RESENT).filter(one -> one.run().isPresent() == hasRun)
                    .map(one -> one.attempt(new Row(index.findOrAdd(one.event().id()), 0,
                            one.event().id(), Map.of()))).toList();
        }

        /// Returns when the newest attempt was sent whose stream has had a first event.
        Instant newestBegun() {
            return newestBegun;
        }

        /// Returns for each row, by its entry, the attempt to look up before the row is sent. This is the most urgent
        /// attempt, or the last of several that are equally urgent. A row has several if their results are lost.
        Map<Integer, Sent> unresolvedByRow() {
            var all = new HashMap<Integer, Sent>();
            all(state -> state != State.RESENT).forEach(one -> {
                int entry = index.find(one.event().id());
                if (entry >= 0) all.merge(entry, one, (earlier, later) ->
                        later.state().compareTo(earlier.state()) >= 0 ? later : earlier);
            });
            return all;
        }

        /// Describes why an attempt of an earlier session has no outcome, for its look-up. If its task was asked to
        /// stop, `stopped` on the server does not mean that the row failed.
        Unresolved unresolved(Sent one, Row row, Duration timeout) {
            boolean isStopped = one.run().filter(run -> stoppedTasks.contains(run.task())).isPresent();
            var symptom = one.isDoubtful() ? Symptom.LOST_RESULT : isStopped ? Symptom.INTERRUPTED : Symptom.CRASH;
            // the first part of the cause, because the second is why the last look-up failed; a row that has succeeded
            // has no cause
            var why = one.state() == State.UNSETTLED && ends.containsKey(row.index())
                    ? cause(row.index()).split("; ")[0] : symptom.text;
            var sentAt = one.event().t();
            return new Unresolved(one.attempt(row), new Response.Cut(one.run(), symptom, why), symptom, why,
                    sentAt, sentAt.plus(timeout));
        }

        /// Returns the policy for a server of this version. An attempt that went to another version, or perhaps to
        /// another app, is found by other rules, so the policy gets the version and doubt of each unresolved attempt.
        ///
        /// @param isAssumed whether only `--same-app` shows that this app got the attempts
        ModePolicy modePolicy(Mode asked, AppKind app, String version, boolean isAssumed) {
            var route = new ModePolicy(asked, mode, app, version);
            all(state -> state != State.RESENT).forEach(one ->
                    route.noteEarlierServer(one.event().user(), one.server(), isAssumed || one.isElsewhere()));
            return route;
        }
    }

    // Batch: the app it belongs to

    /// Identifies the server and the app of a batch's runs. With another server or app, the runs cannot be looked up,
    /// and their rows would be paid for twice. The app's name does not identify it, because two apps may share a name
    /// and an app can be renamed.
    ///
    /// @param sessions the last session on these files, or the last one of each shard if no session followed a merge
    record Origin(BatchFiles files, List<SessionEvent> sessions) {
        /// At most this many runs are looked up to recognize the app, with one request each. A single run is not
        /// enough, because Dify may have deleted it.
        private static final int MAX_RUNS = 3;

        static Origin of(BatchFiles files) throws IOException {
            var last = new LinkedHashMap<String, SessionEvent>(); // by shard, "" for the whole batch
            for (var session : Event.sessions(files.log())) {
                if (session.shard().isEmpty()) last.clear();
                last.put(session.shard(), session);
            }
            return new Origin(files, List.copyOf(last.values()));
        }

        /// Refuses another server than the one of the earlier sessions. If they sent nothing, the server does not
        /// matter.
        void requireServer(String name) throws IOException {
            for (var session : sessions)
                if (!session.baseUrl().equals(name) && runs(session).mayHaveStarted())
                    throw new Unusable(files.log() + ": this batch was started " + place(session.baseUrl()) + ", not "
                            + place(name), (session.baseUrl().equals("demo") ? "add --demo"
                            : "use that URL") + ", or choose another -o");
        }

        /// Describes a server for a message. The log has `demo` as the URL of the demo, whose port changes.
        private static String place(String baseUrl) {
            return baseUrl.equals("demo") ? "with --demo" : "on " + baseUrl;
        }

        /// Creates the refusal for a key or app id that is new to this batch.
        ///
        /// @param runs     the recorded runs, none of which this app has
        /// @param isSameId whether the app id is the same as before, so that only the key differs
        Unusable otherApp(Runs runs, boolean isSameId) {
            var reason = runs.newest().isEmpty() ? "no recorded run can show whether the app is the same"
                    : "this app has none of the last " + Text.count(runs.newest().size(), "recorded run")
                            + ": it is another app, or Dify has deleted its runs";
            return new Unusable(files.log() + ": this batch was started with another "
                    + (isSameId ? "key" : "app id (DIFY_APP_ID)") + ", and " + reason,
                    "use that app's key and id; if it is the same app, pass --same-app: rows whose runs are not found "
                            + "are then unknown");
        }

        /// Identifies a run that the files record. For a blocking chatflow they record no run id, but its message can
        /// be found by its user.
        record Recorded(String id, String user) {}

        /// Holds what shows which app a session used.
        ///
        /// @param mayHaveStarted whether the session sent a row, which may have started a run
        /// @param newest         the newest runs; runs with a result are preferred, because they took place for certain
        record Runs(boolean mayHaveStarted, Collection<Recorded> newest) {}

        /// Reads what shows which app a session used. Only a start with another server or key needs this, so it is not
        /// part of the history. The results are read after the log, because the runs that are added last are kept.
        Runs runs(SessionEvent session) throws IOException {
            Predicate<String> isRow = session.shard().isEmpty() ? _ -> true : Shard.parse(session.shard())::holds;
            var newest = new LinkedHashMap<String, Recorded>(); // by user
            var madeUp = new HashSet<String>();
            var isSent = new AtomicBoolean();
            Event.scan(files.log(), (event, _) -> {
                if (!isRow.test(event.id())) return;
                if (event instanceof AttemptEvent) isSent.set(true);
                if (event instanceof RunEvent run) {
                    // Dify 1.16 makes up the run of a row that it refuses in a stream, and cannot find it later
                    if (new RunRef(run.run(), run.task()).isMadeUp()) madeUp.add(run.run());
                    else add(newest, run.run(), run.user());
                }
                if (event instanceof EndEvent end && !end.run().isEmpty() && !madeUp.contains(end.run()))
                    add(newest, end.run(), end.user());
            });
            Lines.<Line>scan(files.results(), "", Line.READER, (line, _) -> {
                if (isRow.test(line.id()) && !line.user().isEmpty()) add(newest, line.workflowRunId(), line.user());
            });
            return new Runs(isSent.get(), newest.values());
        }

        /// Adds a run as the newest one and drops the oldest of too many.
        private static void add(LinkedHashMap<String, Recorded> newest, String run, String user) {
            newest.putLast(user, new Recorded(run, user));
            if (newest.size() > MAX_RUNS) newest.pollFirstEntry();
        }

        /// Holds the fields of a results line that identify its run. Lines of the original tool have no user.
        private record Line(String id, String workflowRunId, String user) {
            static final ObjectReader READER = Lines.MAPPER.readerFor(Line.class);
        }
    }

    // Batch: single rows

    /// Remembers where in the files the lines of each row are, in 16 bytes per line. It is filled while the files are
    /// read, and [Lines] then reads single lines, so that views need not hold the contents of all rows. The lines of a
    /// row form a chain from the last one to the first.
    static final class LineOffsets implements Batch.Listener {
        /// `newest` holds the number of each row's last line, and `before` holds for each line the number of the same
        /// row's previous line. Lines are numbered from 1, so that 0 means that there is no such line.
        private final LongList newest = new LongList(), before = new LongList();
        /// Holds the offset of each line in the log. For a line of the results, it holds -1 minus the offset, which is
        /// negative even for the first line.
        private final LongList offsets = new LongList();

        @Override
        public void result(int entry, Lines line) {
            add(entry, -1 - line.place());
        }

        @Override
        public void event(Index index, Event event, long at) {
            int entry = index.find(event.id());
            if (entry >= 0) add(entry, at); // -1 if the event is not about a row
        }

        private void add(int entry, long offset) {
            offsets.add(offset);
            before.add(newest.get(entry));
            newest.set(entry, offsets.size());
        }

        /// Returns the offsets of a row's lines, the last line first.
        private List<Long> of(int entry) {
            var all = new ArrayList<Long>();
            for (long line = newest.get(entry); line > 0; line = before.get(line - 1)) all.add(offsets.get(line - 1));
            return all;
        }

        /// Returns the first `rows` entries in the order of their first lines in the log. Entries without a line in the
        /// log, such as results of the original tool, come last.
        List<Integer> inOrderOfSending(int rows) {
            return IntStream.range(0, rows).boxed().sorted(Comparator.comparingLong(entry -> of(entry).stream()
                    .mapToLong(offset -> offset).filter(offset -> offset >= 0).min().orElse(Long.MAX_VALUE))).toList();
        }

        /// Reads single rows from the files of a batch. The files stay open until this is closed.
        record RowEnds(Batch batch, Lines results, Lines log) implements AutoCloseable {
            RowEnds(Batch batch) {
                this(batch, new Lines(batch.files().results()), new Lines(batch.files().log()));
            }

            /// Returns how the row ended. A success is read from the results; any other outcome is in the history,
            /// which was read from the log. The line is missing if the results became shorter after they were read. The
            /// log leaves out zeros, so 0 tokens mean that their number is unknown.
            RowEnd of(int entry) {
                var last = batch.offsets().of(entry).stream().filter(offset -> offset < 0).findFirst();
                if (last.isPresent() && results.seek(-1 - last.get()).bytes().length > 0) return RowEnd.of(results);
                return batch.history().end(entry).map(end -> new RowEnd(Map.of(), Map.of(), end.run(), "",
                        end.tokens() == 0 ? "" : Long.toString(end.tokens()),
                        end.price() == null ? "" : end.price().toPlainString(), end.currency(),
                        end.error(), false)).orElse(RowEnd.NONE);
            }

            /// Holds an attempt and the events that followed it.
            record Trace(AttemptEvent attempt, List<Event> events) {
                <T extends Event> List<T> all(Class<T> kind) {
                    return events.stream().filter(kind::isInstance).map(kind::cast).toList();
                }

                /// Returns the id of the attempt's run, or an empty text if the log has none.
                String run() {
                    var runs = all(RunEvent.class);
                    return runs.isEmpty() ? "" : runs.getLast().run();
                }

                /// Returns the error text of an end. A paused row also has the forms that it waits for:
                /// `waits for a person: Approve refund, until 2026-01-16 13:00:00 +01:00`
                String error(EndEvent end) {
                    var forms = all(FormEvent.class);
                    if (forms.isEmpty() || !end.outcome().equals(RowStatus.PAUSED.word())) return end.error();
                    return end.error() + ": " + forms.stream().map(FormEvent::text).collect(joining("; "));
                }
            }

            /// Returns the row's attempts with their events, in the order of the log. The log has no `end` event of a
            /// success, so the end of such an attempt is made from its line in the results.
            List<Trace> traces(int entry) {
                var ends = new HashMap<String, EndEvent>(); // of successes, by user
                var traces = new LinkedHashMap<String, Trace>(); // by user
                for (long offset : batch.offsets().of(entry).reversed()) {
                    if (offset < 0) results.seek(-1 - offset).<Results.Success.Head>read(Results.Success.READER)
                            .ifPresent(success -> ends.put(success.user(), success.end()));
                    else {
                        var event = Event.read(log.seek(offset).bytes()).orElseThrow(); // it was read before
                        if (event instanceof AttemptEvent attempt)
                            traces.put(attempt.user(), new Trace(attempt, new ArrayList<>()));
                        // an event is left out if the line of its attempt could not be read
                        else if (traces.containsKey(event.user())) traces.get(event.user()).events().add(event);
                    }
                }
                ends.keySet().retainAll(traces.keySet()); // the original tool's results have no attempt
                ends.forEach((user, end) -> traces.get(user).events().add(end));
                return List.copyOf(traces.values());
            }

            @Override
            public void close() {
                try (results; log) {} // closes both, even if one cannot be closed
            }
        }

        /// Holds the outcome of a row with its values and costs, for views to show. Texts that are not known are empty.
        record RowEnd(Map<String, JsonNode> inputs, Map<String, JsonNode> outputs, String run, String seconds,
                String tokens, String price, String currency, String error, boolean edited) {
            static final RowEnd NONE = new RowEnd(Map.of(), Map.of(), "", "", "", "", "", "", false);

            /// Returns a part of the outputs, or a missing node if the outputs do not have it.
            JsonNode at(JsonPointer pointer) {
                return outputs.getOrDefault(pointer.getMatchingProperty(), Json.MAPPER.missingNode())
                        .at(pointer.tail());
            }

            /// Reads the line of a success. Fails if the line has been changed since the files were read.
            static RowEnd of(Lines line) {
                var tree = line.<ObjectNode>read(Lines.TREE).orElseThrow(() -> new Unusable(line.path
                        + ": cannot read the JSON of the line at byte " + line.place()));
                var outputs = tree.path("outputs");
                // the original tool wrote outputs as {"outputs": {…}}, and only its lines lack `workflow_status`
                if (!tree.has("workflow_status") && outputs.size() == 1 && outputs.path("outputs").isObject())
                    outputs = outputs.path("outputs");
                // no error (""), because the line is a success
                return new RowEnd(values(tree.path("inputs")), values(outputs),
                        tree.path("workflow_run_id").asText(), tree.path("elapsed_time").asText(),
                        tree.path("total_tokens").asText(), tree.path("total_price").asText(),
                        tree.path("currency").asText(), "", tree.path("edited").asBoolean());
            }

            /// Returns the values by name. A value that is not an object gets the name `outputs`, so that it is shown.
            private static Map<String, JsonNode> values(JsonNode node) {
                if (node.isMissingNode()) return Map.of();
                if (!node.isObject()) return Map.of("outputs", node);
                var values = new LinkedHashMap<String, JsonNode>();
                node.properties().forEach(value -> values.put(value.getKey(), value.getValue()));
                return values;
            }

            /// Returns a text as is and any other value as JSON, with all digits of a number.
            static String text(JsonNode value) {
                return value.isTextual() ? value.textValue() : value.isMissingNode() ? "" : value.toString();
            }
        }
    }

    /// Holds the paths of the files of a batch, or of one shard. Their names are derived from the name of the results.
    record BatchFiles(Path results, Path retry, Path log, Path lock, Optional<Shard> shard) {
        /// Matches what may precede the first line: byte order marks, of which a crash may have cut the last one in
        /// half, and whitespace. The text has one character per byte.
        private static final Pattern BLANK = Pattern.compile(
                "^(?:\u00EF\u00BB\u00BF)*(?:\u00EF\u00BB?\\z)?[ \\t\\r\\n]*");
        private static final String ELSEWHERE = "move it away, or choose another -o";

        /// Returns the files that belong to this output. Fails before anything is sent if one of them cannot be written
        /// safely.
        static BatchFiles of(Path output) {
            requireRegular(output); // first, because a path such as / has no name to derive others from
            var files = new BatchFiles(output, sibling(output, ".retry"), sibling(output, ".log"),
                    sibling(output, ".lock"), Shard.in(output));
            files.all().forEach(BatchFiles::requireRegular);
            return files;
        }

        /// Refuses what cannot be locked, cut and replaced safely. A link may point to a file of another batch, and `-`
        /// would be standard output.
        private static void requireRegular(Path file) {
            boolean exists = Storage.exists(file, LinkOption.NOFOLLOW_LINKS);
            if (file.toString().equals("-")
                    || exists && !Storage.attributes(file, LinkOption.NOFOLLOW_LINKS).isRegularFile())
                throw new Unusable(file + ": not a regular file (a folder, link, pipe or device)", ELSEWHERE);
            var folder = file.toAbsolutePath().getParent();
            if (!Storage.exists(folder) || !Storage.attributes(folder).isDirectory())
                throw new Unusable(file + ": no such folder: " + folder);
        }

        private static Path sibling(Path output, String suffix) {
            return output.resolveSibling(output.getFileName() + suffix);
        }

        List<Path> all() {
            return List.of(results, retry, log, lock);
        }

        /// Returns the size of the results in bytes, or 0 without results.
        long resultsSize() {
            return Storage.exists(results) ? Storage.attributes(results).size() : 0;
        }

        /// Returns the ids in `<output>.retry`, each once, because the original tool repeats ids. Editors put byte
        /// order marks before a text, and `cat` of several files puts them into it, so they are removed from each line.
        List<String> retryIds() throws IOException {
            if (!Storage.exists(retry)) return List.of();
            return new String(Storage.naming(retry, () -> Files.readAllBytes(retry)), UTF_8).lines()
                    .map(line -> line.replaceFirst("^\uFEFF", "").strip())
                    .filter(id -> !id.isEmpty()).distinct().toList();
        }

        /// Writes the retry list in the CSV's order. The file is replaced as a whole, and deleted if no row is on the
        /// list. Ids that this CSV lacks come last, because a later session may have a CSV with them.
        void writeRetryList(Index index) {
            var others = IntStream.range(index.rows(), index.size())
                    .filter(entry -> index.status(entry).isOnRetryList());
            var ids = IntStream.concat(index.onRetryList(), others).mapToObj(index::id).iterator();
            if (!ids.hasNext()) Storage.naming(retry, () -> Files.deleteIfExists(retry));
            else AtomicFile.replace(retry, out -> {
                var writer = new BufferedWriter(new OutputStreamWriter(out, UTF_8));
                while (ids.hasNext()) writer.append(ids.next()).append('\n');
                writer.flush();
            });
        }

        /// Rejects files that difyexec did not write, so that they are never changed or moved.
        void requireOurs() {
            if (!isOurs(results, Results::isResult, Results.BEGINNING))
                throw new Unusable(results + ": the first line is not a result of difyexec", ELSEWHERE);
            if (!isOurs(log, line -> Event.read(line).isPresent(), Event.BEGINNING))
                throw new Unusable(log + ": the first line is not an event of difyexec", ELSEWHERE);
        }

        /// Refuses a retry list that another program wrote. A list beside results or a log is ours, even if the CSV
        /// lacks some of its ids, because the user may have removed rows from the CSV.
        void requireOurs(Index csv) throws IOException {
            boolean isAlone = head(results).isEmpty() && head(log).isEmpty();
            if (isAlone && retryIds().stream().anyMatch(id -> csv.find(id) < 0))
                throw new Unusable(retry + ": not a list of ids of this batch", ELSEWHERE);
        }

        /// Refuses an output that would overwrite the batch or its input, even with `--force`, or another existing
        /// file.
        ///
        /// @param mayBeReplaced whether this existing file may be overwritten
        void requireWritableTarget(Path file, List<Path> inputs, Predicate<Path> mayBeReplaced) throws IOException {
            requireRegular(file);
            if (isAny(all(), file) || isAny(inputs, file))
                throw new Unusable(file + " is a file of the batch or its input", "choose another name");
            if (Storage.exists(file) && !mayBeReplaced.test(file))
                throw new Unusable(file + " already exists", "use --force to overwrite it");
        }

        /// Refuses an input that is a file of the batch, because the output would destroy it.
        void refuseAsInput(Path input) throws IOException {
            if (isAny(all(), input)) throw new Unusable(input
                    + " is both input and output", "choose another -o");
        }

        private static boolean isAny(List<Path> files, Path file) throws IOException {
            return files.stream().anyMatch(one -> Storage.isSame(one, file));
        }

        /// Holds what an earlier session chose about the input, the log that records it, and the path of the input if
        /// it is known.
        record Choices(Csv.Shape shape, Path log, Optional<Path> input) {}

        /// Returns the choices of the last session on these files. Without a session, returns the choices of a shard,
        /// because a new shard and `merge` must read the CSV as the other shards did.
        Choices choices() {
            var whole = shard.isEmpty() ? this : of(Shard.wholeFile(results));
            for (var files : Stream.concat(Stream.of(this), Shards.beside(whole).stream()).toList()) {
                var sessions = Event.sessions(files.log);
                if (!sessions.isEmpty()) return new Choices(sessions.getLast().choices(), files.log,
                        sessions.getLast().input(files.results));
            }
            return new Choices(Csv.Shape.DEFAULT, log, Optional.empty());
        }

        /// Returns whether the first line that is not blank was written by difyexec. A missing or empty file counts as
        /// ours, because nothing in it can be lost.
        ///
        /// @param isLine    whether a complete first line is ours
        /// @param beginning matches the start of our lines, for a first line that was cut or is longer than 64 KB
        static boolean isOurs(Path file, Predicate<byte[]> isLine, Pattern beginning) {
            var head = head(file);
            int end = head.indexOf('\n');
            if (head.isEmpty() || isLine.test((end < 0 ? head : head.substring(0, end)).getBytes(ISO_8859_1)))
                return true;
            var matcher = beginning.matcher(head);
            // at least six bytes, as in {"id": because any JSON may begin with {
            return end < 0 && head.length() >= 6 && (matcher.lookingAt() || matcher.hitEnd());
        }

        /// Reads the first 64 KB of a file, without byte order marks and leading whitespace. Returns an empty text if
        /// there is no file. Each byte becomes one character, because the end may cut a character of UTF-8 in half.
        static String head(Path file) {
            if (!Storage.exists(file)) return "";
            return Storage.naming(file, () -> {
                try (var in = Files.newInputStream(file)) {
                    return BLANK.matcher(new String(in.readNBytes(1 << 16), ISO_8859_1)).replaceFirst("");
                }
            });
        }

        /// Returns the name to which `merge` renames the log of a shard.
        Path mergedLog() {
            return sibling(results, ".log.merged");
        }

        boolean isMerged() {
            return log.equals(mergedLog());
        }

        /// Returns the files of a shard with the log that `merge` renamed, or unchanged if there is another log.
        BatchFiles orMerged() {
            return head(log).isEmpty() && Storage.exists(mergedLog())
                    ? new BatchFiles(results, retry, mergedLog(), lock, shard) : this;
        }

        /// Returns whether a batch was started. A lock file alone does not count, because it is created before anything
        /// else.
        boolean isStarted() {
            return !head(log).isEmpty() || Storage.exists(retry) || !head(results).isEmpty();
        }

        /// Refuses the results file of a batch for the output of `pull`, because the batch's log would then be about
        /// other rows.
        BatchFiles requireNoBatch() {
            if (!Storage.exists(log) && !Storage.exists(retry)) return this;
            throw new Unusable(results + " is the results file of a batch", "choose another -o");
        }

        /// Refuses a batch that was never started, because `status`, `export` and others have nothing to show then.
        BatchFiles requireStarted() {
            if (isStarted()) return this;
            if (Shards.beside(this).isEmpty()) throw new Unusable(
                    results + ": no such batch, and no .retry or .log exists", "start a batch with 'run'");
            throw new Unusable(results + ": not merged yet; only shards of this batch exist",
                    "'merge' combines them into one batch");
        }

        /// Renames the files of a batch for `--fresh`, so that nothing of it is lost. The log goes last. If the process
        /// is killed before that, the next start looks its attempts up and does not send their rows again.
        void moveAside(PrintWriter err) throws IOException {
            var stamp = "." + Instant.now().toString().replaceAll("[-:]", ""); // Windows allows no colon in a name
            for (var file : List.of(results, retry, log)) {
                if (!Storage.exists(file)) continue;
                Files.move(file, sibling(file, stamp));
                err.println("Moved " + file + " to " + sibling(file, stamp).getFileName() + ".");
            }
            AtomicFile.forceFolder(results); // so that the new names survive a power cut
        }

        /// Takes the lock of these files. A whole batch and its shards exclude each other, and so do shards of
        /// different counts, because both would send the same rows. Each process takes its own lock first and then
        /// looks at the other locks, so that at most one of two processes that start together continues.
        Lock acquire() {
            var own = Storage.naming(lock, () -> Lock.of(this));
            try {
                var whole = shard.isEmpty() ? this : of(Shard.wholeFile(results));
                if (shard.isPresent() && Lock.isHeld(whole.lock)) throw locked(whole.lock);
                for (var other : Shards.named(whole))
                    if (shard.isEmpty() || Shards.shard(other).count() != shard.get().count())
                        if (Lock.isHeld(other.lock)) throw locked(other.lock);
                // the lock shows that no process is writing them
                for (var file : List.of(results, retry, log)) AtomicFile.removeAbandoned(file);
                return own;
            } catch (RuntimeException problem) {
                own.close();
                throw problem;
            }
        }

        private static Unusable locked(Path file) {
            return new Unusable(file + " is locked: another difyexec process is using this batch",
                    "wait for it, or choose another -o");
        }

        /// Holds the lock of the one process that writes a batch. The lock has a file of its own, because a process
        /// loses its locks on a file when it closes any channel of that file.
        record Lock(BatchFiles files, FileLock held) implements AutoCloseable {
            /// Takes the lock, or refuses if another process holds it. A process that ends removes its lock file if it
            /// started no batch. If that happened between our steps, our lock is on a deleted file that excludes
            /// nobody, so it counts only if the path still leads to the file that was there before.
            static Lock of(BatchFiles files) throws IOException {
                FileChannel.open(files.lock, StandardOpenOption.CREATE, StandardOpenOption.WRITE,
                        LinkOption.NOFOLLOW_LINKS).close(); // only creates it
                var key = key(files.lock);
                var channel = FileChannel.open(files.lock, StandardOpenOption.WRITE, LinkOption.NOFOLLOW_LINKS);
                FileLock held = null;
                try {
                    var lock = channel.tryLock(0, 1, false); // any one byte will do; not shared (false)
                    if (lock != null && Objects.equals(key, key(files.lock))) held = lock;
                } catch (OverlappingFileLockException | NoSuchFileException _) {
                    // this process holds it, or another one has just ended and removed it
                } finally { // otherwise a shell, which lives on, would keep the file open
                    if (held == null) channel.close();
                }
                if (held != null) return new Lock(files, held);
                throw locked(files.lock);
            }

            /// Returns what identifies the file itself and not its name (an inode), or null where the system has no
            /// such number. Two nulls count as the same file.
            static Object key(Path path) throws IOException {
                return Files.readAttributes(path, BasicFileAttributes.class).fileKey();
            }

            /// Returns whether a process holds this lock. A shared lock can be asked for without permission to write
            /// the file, which may belong to another user, and it is refused while another process has an exclusive
            /// one.
            static boolean isHeld(Path path) {
                return Storage.exists(path) && Storage.naming(path, () -> {
                    try (var channel = FileChannel.open(path)) { // reading is enough, see above
                        return channel.tryLock(0, Long.MAX_VALUE, true) == null; // the whole file, shared (true)
                    } catch (OverlappingFileLockException _) {
                        return true; // held by this process
                    }
                });
            }

            /// Releases the lock. Removes the lock file if no batch was started, so that a refused start leaves nothing
            /// behind. We never write into a lock file, so a file with text is not ours. If the lock cannot be released
            /// at first, closing the channel tries again; otherwise a shell would hold it for good.
            @Override
            public void close() {
                // after the first call, the lock file may be that of another process
                if (held.isValid()) Storage.close(files.lock, () -> {
                    try (var channel = held.channel(); held) {
                        if (!files.isStarted() && channel.size() == 0) Files.deleteIfExists(files.lock);
                    }
                });
            }
        }
    }

    /// Holds the started shards of a batch, which lie beside it, and their count. It also refuses a batch
    /// without shards, and shards of another count, because they would send the same rows again.
    record Shards(BatchFiles whole, int count, List<BatchFiles> files) {
        /// Finds the shards. Shards of two counts cannot be merged, because a row belongs to one shard of each count.
        static Shards of(BatchFiles whole) {
            var files = beside(whole);
            if (files.isEmpty()) throw new Unusable(whole.results()
                    + ": no shards found", "start them with 'run --shard I/N'");
            int count = shard(files.getFirst()).count();
            for (var other : files) requireCount(other, shard(other).count(), count);
            return new Shards(whole, count, files);
        }

        static Shard shard(BatchFiles files) {
            return files.shard().orElseThrow();
        }

        private static void requireCount(BatchFiles other, int theirs, int count) {
            if (theirs != count) throw new Unusable(other.results() + ": this batch was started in " + theirs
                    + " shards, not " + count, "continue with " + theirs + ", or choose another -o");
        }

        /// Returns the started shards of the batch. A merged shard is included with its renamed log, because a merge
        /// that was interrupted must be repeated with all shards.
        static List<BatchFiles> beside(BatchFiles whole) {
            return named(whole).stream().map(BatchFiles::orMerged).filter(BatchFiles::isStarted).toList();
        }

        /// Returns the files of all shards, of any count, that have any file. A lock file alone is enough, because a
        /// shard that is just starting has no other file. Returns none if `whole` is itself a shard.
        static List<BatchFiles> named(BatchFiles whole) {
            var output = whole.results();
            if (whole.shard().isPresent()) return List.of();
            // removes the endings of a shard's other files, and keeps names that its shard would get from this output
            return Storage.list(output.toAbsolutePath().getParent()).stream().map(file -> output.resolveSibling(file
                            .getFileName().toString().replaceFirst("\\.(log(\\.merged)?|lock|retry)$", ""))).distinct()
                    .filter(file -> Shard.in(file).filter(shard -> shard.of(output).equals(file)).isPresent())
                    .map(BatchFiles::of).sorted(Comparator.comparing(BatchFiles::results)).toList();
        }

        /// Refuses a start that could send a row which another process has sent. `history` is empty if the batch starts
        /// from scratch.
        static void refuseOthers(BatchFiles files, Csv csv, Optional<History> history) throws IOException {
            var session = history.flatMap(known -> known.last(SessionEvent.class));
            if (files.shard().isPresent()) {
                if (session.isPresent()) requireSame(files, session.get(), csv);
                refuseOtherBatch(files, csv);
                return;
            }
            var merge = history.flatMap(known -> known.last(MergeEvent.class));
            // a merge was interrupted if the log has sessions of shards, but not the `merge` event that comes last
            if (merge.isEmpty() && session.filter(last -> !last.shard().isEmpty()).isPresent())
                throw new Unusable(files.log() + ": not merged yet", "'merge' combines the shards into one batch");
            for (var part : beside(files))
                if (!part.isMerged()) throw new Unusable(part.log() + ": not merged yet; its rows would be paid for "
                        + "twice", "run 'merge' first, or continue with --shard " + shard(part));
            var missing = merge.map(MergeEvent::missingShards).orElse(List.of());
            if (!missing.isEmpty()) throw new Unusable(files.log() + ": shards were not merged ("
                    + Text.joinFirst(8, missing.stream().map(Shard::toString))
                    + "); their rows would be paid for twice",
                    "run them with --shard if they did not run elsewhere, then 'merge'");
        }

        /// Refuses a shard whose session divided the CSV into other rows or ids. Choices such as `--map` may differ,
        /// because they change only what a row sends.
        static void requireSame(BatchFiles files, SessionEvent session, Csv csv) {
            var then = session.choices();
            var now = csv.shape();
            if (!session.shard().equals(shard(files).toString())) throw new Unusable(files.log() + ": started "
                    + (session.shard().isEmpty() ? "without --shard" : "with --shard " + session.shard()),
                    "continue in the same way, restore the files' names, or choose another -o");
            if (!then.idColumn().equals(now.idColumn()) || !Objects.equals(then.encoding(), now.encoding())
                    || !Objects.equals(then.delimiter(), now.delimiter())
                    || !Objects.equals(then.headerRow(), now.headerRow()))
                throw new Unusable(files.log() + ": started with another --id-column, --encoding, --delimiter or "
                        + "--header-row",
                        "use the same options for all shards");
        }

        /// Refuses a shard whose batch was started with another count, was read in another way, or includes this shard
        /// already.
        private static void refuseOtherBatch(BatchFiles files, Csv csv) throws IOException {
            var own = shard(files);
            var whole = BatchFiles.of(Shard.wholeFile(files.results()));
            for (var other : beside(whole)) {
                requireCount(other, shard(other).count(), own.count());
                for (var session : Event.sessions(other.log())) requireSame(other, session, csv);
            }
            var sessions = Event.sessions(whole.log());
            var merged = merged(sessions);
            for (var shard : merged) requireCount(whole, shard.count(), own.count());
            // the renamed log shows the merge even if the batch's log is no longer there
            if (merged.contains(own) || Storage.exists(files.mergedLog()))
                throw new Unusable(whole.log() + ": includes shard " + own + ", which was merged",
                        "continue without --shard, or choose another -o");
            refuseContinued(whole, sessions, "choose another -o");
        }

        /// Returns the shards whose sessions the log of the whole batch contains.
        private static Set<Shard> merged(List<SessionEvent> sessions) {
            return sessions.stream().map(SessionEvent::shard).filter(shard -> !shard.isEmpty()).map(Shard::parse)
                    .collect(Collectors.toCollection(LinkedHashSet::new));
        }

        /// Refuses a batch that contains more than its shards. It has a session without `--shard`, or results of the
        /// original tool, which wrote no log. A merge would overwrite them, and a shard would send their rows again.
        ///
        /// @param otherwise ends the hint
        private static void refuseContinued(BatchFiles whole, List<SessionEvent> sessions, String otherwise) {
            boolean isOlder = BatchFiles.head(whole.log()).isEmpty() && !BatchFiles.head(whole.results()).isEmpty();
            if (isOlder || sessions.stream().anyMatch(session -> session.shard().isEmpty()))
                throw new Unusable(whole.log() + ": this batch was continued without --shard",
                        "leave out --shard, or " + otherwise);
        }

        /// Refuses a merge that would lose something. Returns the shards that have rows but no files, which are refused
        /// without `--partial` and left out with it.
        List<Shard> requireMergeable(Index index, boolean partial) throws IOException {
            var sessions = Event.sessions(whole.log());
            refuseContinued(whole, sessions, "move the files of " + whole.results() + " away");
            for (var part : files) {
                part.requireOurs(); // because its log will be moved
                if (BatchFiles.head(part.log()).isEmpty()) throw new Unusable(part.log()
                        + ": missing or empty", "copy it here; a shard cannot be merged without its log");
            }
            var here = files.stream().map(Shards::shard).collect(Collectors.toSet());
            for (var shard : merged(sessions)) if (!here.contains(shard))
                throw new Unusable(whole.log() + ": includes shard " + shard + ", whose files are missing",
                        "restore them");
            var missing = IntStream.range(0, index.rows()).mapToObj(entry -> Shard.of(index.id(entry), count))
                    .filter(shard -> !here.contains(shard)).toList();
            var shards = missing.stream().distinct().sorted(Comparator.comparing(Shard::index)).toList();
            if (!partial && !missing.isEmpty()) throw new Unusable(whole.results() + ": no files for shard "
                    + Text.joinFirst(8, shards.stream().map(Shard::toString)) + ", with "
                    + Text.count(missing.size(), "row"), "copy them here, or use --partial");
            return shards;
        }

        /// Merges the shards into one batch: joins their logs by time and their results one after another, and writes
        /// the retry list. The log is put in place first. It gets its last line, the `merge` event, when everything
        /// else is there. Then the shards' logs are moved aside, so that no shard is started again. If the merge is
        /// interrupted before the last of them is moved, `run` refuses the batch, and a second merge makes it again.
        ///
        /// @param cut the numbers of shards whose results were longer before, filled while their logs are read
        record Merger(Shards shards, Csv csv, Index index, History history, Set<Integer> cut) {
            static Batch merge(BatchFiles whole, Csv csv, boolean partial, boolean noBom) {
                return Storage.naming(whole.results(), () -> {
                    var index = Batch.readIndex(whole, Optional.of(csv));
                    try (var _ = whole.acquire()) { // while it is held, no shard can start
                        var shards = Shards.of(whole);
                        var missing = shards.requireMergeable(index, partial);
                        return new Merger(shards, csv, index, new History(index), new TreeSet<>())
                                .write(noBom, missing);
                    }
                });
            }

            /// Writes the files. The log is written inside the writing of the results, because the history must take
            /// results before events, and the log must have its place before the results get theirs.
            private Batch write(boolean noBom, List<Shard> missing) throws IOException {
                var whole = shards.whole();
                var batch = new Batch(whole, Optional.of(csv), index, history, new LineOffsets());
                AtomicFile.replace(whole.results(), results -> {
                    results(results, noBom);
                    AtomicFile.replace(whole.log(), log -> {
                        log(log);
                        // before anything is put in place; `merge` has no option that accepts another CSV
                        batch.refuseOtherFile(csv.file().input(), "");
                    });
                });
                whole.writeRetryList(index);
                var merge = new MergeEvent(Instant.now(), shards.count(), shards.files().size(),
                        missing.stream().map(Shard::index).toList(), List.copyOf(cut), whole.resultsSize());
                history.take(merge);
                try (var log = new LineFile(whole.log(), new byte[0], FileChannel::force)) {
                    log.add(merge);
                    log.write();
                    log.force();
                }
                // replaces the log of an earlier merge, if the shard's log was copied here again after it
                for (var part : shards.files())
                    if (!part.isMerged()) Files.move(part.log(), part.mergedLog(), StandardCopyOption.REPLACE_EXISTING);
                AtomicFile.forceFolder(whole.log());
                return batch;
            }

            /// Copies the results of all shards, and gives them to the history.
            private void results(OutputStream stream, boolean noBom) throws IOException {
                var out = new BufferedOutputStream(stream);
                if (!noBom) out.write(Lines.BOM);
                for (var part : shards.files()) Results.read(part.results(), history, List.of((entry, line) -> {
                    requireOwn(part, index.id(entry));
                    line.copyTo(out);
                }));
                out.flush();
            }

            /// Refuses a file with a row of another shard, because somebody must have renamed or mixed up the files.
            private static void requireOwn(BatchFiles part, String id) {
                var shard = Shards.shard(part);
                if (!shard.holds(id)) throw new Unusable(part.results() + ": row " + Text.id(id)
                        + " belongs to shard "
                        + Shard.of(id, shard.count()), "restore the files of shard " + shard);
            }

            /// Copies the logs of all shards, line by line in the order of time, and gives their events to the history.
            /// A line that cannot be read stays behind the line that precedes it in its log.
            private void log(OutputStream stream) throws IOException {
                var out = new BufferedOutputStream(stream);
                var next = new PriorityQueue<Part>(Comparator.comparing(part -> part.t));
                for (var files : shards.files()) new Part(files).next(next);
                for (var part = next.poll(); part != null; part = next.poll()) {
                    if (part.event instanceof AttemptEvent attempt) requireOwn(part.files, attempt.id());
                    if (part.event instanceof SessionEvent session) {
                        session.requireFormat(part.files.log());
                        Shards.requireSame(part.files, session, csv);
                        var last = history.last(SessionEvent.class).orElse(session);
                        // the app cannot be compared, because the hash of each log has a salt of its own
                        if (!last.baseUrl().equals(session.baseUrl()))
                            throw new Unusable(part.files.log()
                                    + ": ran on another server than the other shards",
                                    "only shards of one app can be merged");
                    }
                    if (part.event != null) history.take(part.event); // null if the line cannot be read
                    part.log.copyTo(out);
                    part.next(next);
                }
                out.flush();
            }

            /// Holds the log of one shard, at its next line. The size of the shard's results is followed as [History]
            /// follows that of a batch.
            private final class Part {
                final BatchFiles files;
                final Lines log;
                private long resultsSize = 0;
                Event event;
                Instant t = Instant.MIN; // of the last event

                Part(BatchFiles files) throws IOException {
                    this.files = files;
                    this.log = new Lines(files.log());
                }

                /// Moves to the next line and puts this log back into the queue. At the end, closes the log instead and
                /// compares the last size with the file. A torn last line is left out.
                void next(Collection<Part> waiting) throws IOException {
                    if (!log.next() || !log.isWhole()) {
                        log.close();
                        noteResultsSize(files.resultsSize());
                        return;
                    }
                    event = log.<Event>read(Event.READER).orElse(null);
                    if (event != null) {
                        t = event.t();
                        if (event.results() >= 0) noteResultsSize(event.results()); // -1 if the event lacks the size
                    }
                    waiting.add(this);
                }

                /// Notes the size of the shard's results. If it is smaller than before, lines are missing.
                private void noteResultsSize(long size) {
                    if (size < resultsSize) cut.add(Shards.shard(files).index());
                    resultsSize = size;
                }
            }
        }
    }

    /// Appends whole lines to a file, a group in one write. The file appears with its first line. A write that fails is
    /// undone, so that no line is torn. After another program has changed the file, nothing more is written. Every
    /// error message contains the path of the file.
    static final class LineFile implements AutoCloseable {
        /// When so many bytes wait, they are written. Smaller groups need more writes, and larger ones more memory.
        private static final int BUFFER_SIZE = 64 << 10;
        /// Does not flush after each line, because a flush copies the line into `waiting` and a group is copied faster.
        private static final ObjectWriter WRITER = Json.MAPPER.writer()
                .without(SerializationFeature.FLUSH_AFTER_WRITE_VALUE);

        private final Path path;
        private final byte[] head; // what a new file begins with: a byte order mark or nothing
        private final ByteArrayOutputStream waiting = new ByteArrayOutputStream();
        private final JsonGenerator json = Json.generator(waiting).setRootValueSeparator(null); // [#add] ends the line
        private final Disk disk;
        private FileChannel channel; // null while the file is not open
        private FileLock held;
        private Object key; // identifies the file when it was opened, see [BatchFiles.Lock#key]
        /// Holds the offset at which our last line ends, and how many bytes of the file are on disk.
        private long end = 0, forced = 0;
        private boolean cannotForce = false; // the file system does not support fsync
        private AtomicFile.NotForced failure; // of the first fsync that failed, after which nothing is written

        /// Writes a file to disk. Tests replace it with a disk that is slow or fails.
        interface Disk {
            /// @param all whether the file's attributes are written, too, as in [FileChannel#force]
            void force(FileChannel channel, boolean all) throws IOException;

            /// Returns how long a wait may last before the user is informed. A disk that works needs far less.
            default Duration patience() {
                return Duration.ofSeconds(5);
            }
        }

        /// Signals that another program changed the file. Another line of ours could be lost, or be joined to one of
        /// that program.
        static final class Touched extends IOException {
            Touched(Path path) {
                super(path + " was changed by another program");
            }
        }

        LineFile(Path path, byte[] head, Disk disk) {
            this.path = path;
            this.head = head;
            this.disk = disk;
        }

        /// Adds a line of JSON, for [#write]. If many bytes wait already, they are written at once, so that long lines
        /// do not fill the memory.
        void add(Object line) {
            Storage.naming(path, () -> {
                WRITER.writeValue(json, line);
                json.writeRaw('\n');
                return json; // the value is not used, but a supplier returns one
            });
            if (waiting.size() >= BUFFER_SIZE) write();
        }

        /// Writes the lines that wait into the file. Returns whether there were any.
        boolean write() {
            return Storage.naming(path, () -> {
                json.flush();
                return waiting.size() > 0 && append();
            });
        }

        /// Writes the lines that wait, and always returns true. They stop waiting before the last check, because lines
        /// that were written must not be written again if that check fails.
        private boolean append() throws IOException {
            if (failure != null) throw failure;
            if (channel == null) open();
            requireUntouched();
            var lines = Secret.current().mask(waiting.toByteArray()); // a server may return the key as an id
            try {
                var out = Channels.newOutputStream(channel.position(end));
                if (end == 0) out.write(head);
                out.write(lines);
            } catch (IOException problem) {
                undo(problem);
                throw problem;
            }
            end += lines.length + (end == 0 ? head.length : 0);
            waiting.reset();
            requireUntouched(); // another program may have changed the file while we wrote
            return true;
        }

        /// Cuts off what a failed write left. If this fails as well, the message still shows the first error, which is
        /// the cause.
        private void undo(IOException problem) {
            try {
                channel.truncate(end);
            } catch (IOException another) {
                problem.addSuppressed(another);
            }
        }

        /// Opens and locks the file. If a step fails, the file is closed again, and a later write may retry. `channel`
        /// is set last, because it shows that all steps have succeeded. The folder is written to disk so that a new
        /// file survives a power cut.
        private void open() throws IOException {
            var opened = FileChannel.open(path, StandardOpenOption.CREATE, StandardOpenOption.READ,
                    StandardOpenOption.WRITE, LinkOption.NOFOLLOW_LINKS);
            try {
                held = hold(opened);
                key = BatchFiles.Lock.key(path);
                end = opened.size();
                AtomicFile.forceFolder(path);
                channel = opened;
            } catch (IOException problem) {
                // the disk itself failed, so that no later write may retry
                if (problem instanceof AtomicFile.NotForced known) failure = known;
                try (opened) {
                    throw problem;
                }
            }
        }

        /// Locks a byte beyond the end of any file, because on Windows no other process can read locked bytes, and
        /// `status` must be able to read the file.
        private static FileLock hold(FileChannel file) throws IOException {
            try {
                var lock = file.tryLock(Long.MAX_VALUE - 1, 1, false);
                if (lock != null) return lock;
            } catch (OverlappingFileLockException _) {
                // held by this process
            }
            throw new IOException("another difyexec process is writing to it");
        }

        /// Refuses a file that another program has lengthened, cut, replaced or deleted.
        private void requireUntouched() throws IOException {
            try {
                if (channel.size() == end && Objects.equals(BatchFiles.Lock.key(path), key)) return;
            } catch (NoSuchFileException _) {
                // the file was deleted
            }
            throw new Touched(path);
        }

        boolean isForced() {
            return forced == end;
        }

        boolean cannotForce() {
            return cannotForce;
        }

        /// Returns how many bytes of the file are on disk, or how many were appended if the file system has no fsync.
        long onDisk() {
            return forced;
        }

        /// Writes to disk what was appended. After a failure the disk is not asked again, because it might report a
        /// success although data is missing.
        void force() {
            if (failure != null) throw new UncheckedIOException(failure);
            if (isForced()) return;
            try {
                if (!cannotForce) disk.force(channel, false); // the file's time of change need not be on disk
            } catch (IOException problem) {
                cannotForce = AtomicFile.cannotForce(problem);
                if (!cannotForce) throw new UncheckedIOException(failure = new AtomicFile.NotForced(path, problem));
            }
            forced = end;
        }

        /// Locks the file if it exists, against other processes that use it under any name. The caller no longer reads
        /// the file, because a process loses its locks on a file when it closes any channel of that file.
        void hold() {
            if (Storage.exists(path)) Storage.naming(path, () -> {
                open();
                return channel;
            });
        }

        /// Cuts off a last line that a crash or a full disk has torn, and returns an event that records this. If only
        /// the line break is missing, adds it. Afterwards the file is closed again, because it is read next.
        Optional<TornEvent> repair() {
            hold();
            if (channel == null) return Optional.empty();
            try (var _ = this) {
                return Storage.naming(path, this::repairLastLine);
            }
        }

        private Optional<TornEvent> repairLastLine() throws IOException {
            var last = lastLine(channel, end);
            // the file ends with a line break, or has only its byte order mark
            if (last.length == 0 || Arrays.equals(last, Lines.BOM)) return Optional.empty();
            boolean isWhole = Lines.read(Lines.TREE, last, 0, last.length).isPresent();
            if (isWhole) channel.write(ByteBuffer.wrap(new byte[] {'\n'}), end);
            else channel.truncate(end - last.length);
            return isWhole ? Optional.empty() : Optional.of(new TornEvent(Instant.now(),
                    path.getFileName().toString(), channel.size(), last.length));
        }

        /// Returns the bytes after the last line break. Reads from the file's end, twice as many bytes each time,
        /// because a file may be large and a line long. A mapped file would need less code, but a disk that fails while
        /// a map is read ends the process.
        private static byte[] lastLine(FileChannel channel, long size) throws IOException {
            for (long length = BUFFER_SIZE; ; length *= 2) {
                long from = Math.max(0, size - length);
                var bytes = ByteBuffer.allocate((int) (size - from));
                while (bytes.hasRemaining() && channel.read(bytes, from + bytes.position()) >= 0) {}
                int start = bytes.position();
                while (start > 0 && bytes.get(start - 1) != '\n') start--;
                if (start > 0 || from == 0) return Arrays.copyOfRange(bytes.array(), start, bytes.position());
            }
        }

        /// Closes the file. The lock comes first, and closing the channel releases a lock that could not be released;
        /// otherwise a shell, which lives on, would hold it for good.
        @Override
        public void close() {
            if (channel == null) return;
            var opened = channel;
            var lock = held;
            channel = null;
            Storage.close(path, () -> {
                try (opened; lock) {}
            });
        }
    }

    /// Reads and writes the lines of the results. We write only successes.
    static final class Results {
        private static final String SUCCESS = "success", PARTIAL = "partial-succeeded";
        /// Matches the beginning of a result. The original tool puts a space after each colon and comma. The possessive
        /// `*+` keeps a long text of another program from taking long.
        static final Pattern BEGINNING = Pattern.compile("""
                \\{"id": ?"[^"\\\\]*+(?:\\\\.[^"\\\\]*+)*+", ?"status": ?"success", ?"inputs": ?\\{""");

        /// Gives each success to the history, and then its line to the listeners. Returns where the lines are that
        /// cannot be read. Lines of the original tool with another status are skipped.
        static List<String> read(Path results, History history, List<Batch.Listener> listeners) throws IOException {
            return Lines.<Success.Head>scan(results, "", Success.READER, (success, line) -> { // "" for all lines
                if (!success.isSuccess()) return;
                int entry = history.take(success);
                for (var listener : listeners) listener.result(entry, line);
            });
        }

        static boolean isResult(byte[] line) {
            return Lines.<Success.Head>read(Success.READER, line, 0, line.length).filter(Success.Head::isSuccess)
                    .isPresent();
        }

        /// Holds a success that is about to be written.
        ///
        /// @param took how long the row took, from its request until it ended
        record Success(Attempt attempt, Response.Ran ran, Instant executedAt, Duration took,
                Response.SavedFiles files) {
            static final ObjectReader READER = Lines.MAPPER.readerFor(Head.class);

            /// Holds the fields of a line that identify the attempt, its cost and its time, without inputs and outputs,
            /// which may be large. Lines of the original tool have neither `user` nor `seconds`, and may have another
            /// status. Without the annotation, Jackson keeps a copy of all other fields until it has these.
            @JsonIgnoreProperties(ignoreUnknown = true)
            record Head(String id, String status, String workflowStatus, String workflowId, String workflowRunId,
                    String executedAt, long totalTokens, BigDecimal totalPrice, String currency, boolean edited,
                    String user, String fingerprint, Double seconds, List<String> missing) {
                Head { // a line without an id or a status counts as a line that cannot be read
                    if (id.isBlank() || status.isEmpty()) throw new IllegalArgumentException("not a result");
                }

                boolean isSuccess() {
                    return status.equals(SUCCESS);
                }

                Outcome outcome() {
                    return workflowStatus.equals(PARTIAL) ? Outcome.PARTIAL : Outcome.SUCCEEDED;
                }

                /// Converts this result to an `end` event, which the log does not contain for a success. Without a
                /// refusal or an error, `http` is 0 and `error` is empty. The size of the results is not needed.
                EndEvent end() {
                    return new EndEvent(Times.parse(executedAt), id, user, outcome().status().word(), fingerprint,
                            workflowRunId, 0, "", seconds == null ? 0 : seconds, totalTokens, totalPrice, currency,
                            edited, 0);
                }
            }

            /// Returns the line's fields in their order in the file: first those of the original tool, so that its
            /// scripts can read them, and then ours.
            Map<String, Object> json() {
                var usage = ran.usage();
                var line = object("id", attempt.row().id(), "status", SUCCESS, "inputs", attempt.row().inputs(),
                        "outputs", ran.outputs(),
                        "workflow_run_id", ran.ref().id(), "executed_at", Times.text(executedAt),
                        "retry_count", attempt.tries().retries(), "user", attempt.user(),
                        "workflow_status", ran.status() == Response.RunStatus.PARTIAL ? PARTIAL : "succeeded",
                        "workflow_id", ran.workflowId(), "elapsed_time", usage.seconds(),
                        "total_tokens", usage.tokens(), "total_steps", usage.steps());
                usage.price().ifPresent(price -> line.putAll(object("total_price", price,
                        "currency", usage.currency())));
                // a blocking chatflow returns a message without a run, which does not show a partial success
                if (!ran.ref().isNamed()) line.remove("workflow_status");
                if (attempt.isEdited()) line.put("edited", true);
                if (!files.saved().isEmpty())
                    line.put("files", files.saved().stream().map(Path::toString).toList());
                if (!ran.message().conversation().isEmpty())
                    line.put("conversation_id", ran.message().conversation());
                if (!ran.message().id().isEmpty()) line.put("message_id", ran.message().id());
                line.putAll(object("fingerprint", attempt.fingerprint(), "seconds", seconds()));
                if (!files.missing().isEmpty()) line.put("missing", missing());
                return line;
            }

            /// Returns what [#READER] would read from the line, without reading it. Only a partial success has its
            /// status here, because no other status matters to [Head#outcome].
            Head head() {
                var usage = ran.usage();
                return new Head(attempt.row().id(), SUCCESS,
                        ran.status() == Response.RunStatus.PARTIAL && ran.ref().isNamed() ? PARTIAL : "",
                        ran.workflowId(), ran.ref().id(), Times.text(executedAt), usage.tokens(),
                        usage.price().orElse(null), usage.currency(), attempt.isEdited(), attempt.user(),
                        attempt.fingerprint(), seconds(), missing());
            }

            private double seconds() {
                return took.toMillis() / 1000.0;
            }

            /// Returns the files that could not be saved, each with the reason, which may contain a server's text.
            private List<String> missing() {
                return files.missing().entrySet().stream()
                        .map(file -> file.getKey() + ": " + Text.printable(file.getValue(), 200)).toList();
            }
        }
    }

    /// Represents a line of the attempt log. Lines are appended and never changed. `t` is the time of the event. A text
    /// that is unknown is empty, and empty values are left out of the line. `event` comes first in a line, so that
    /// lines of one kind can be found without parsing all of them. A line without a required field cannot be read; an
    /// attempt without an id, for example, would add a row that does not exist.
    @JsonTypeInfo(use = JsonTypeInfo.Id.NAME, include = JsonTypeInfo.As.EXISTING_PROPERTY, property = "event")
    @JsonPropertyOrder("event")
    @JsonInclude(JsonInclude.Include.NON_EMPTY)
    sealed interface Event {
        /// This number grows when a line gets another meaning. A log of another format is refused.
        int FORMAT = 4;
        /// Matches the beginning of a log. Its first line is a session, or records a torn line of the results that was
        /// cut off before the session started.
        Pattern BEGINNING = Pattern.compile("""
                \\{"event":"(?:session|torn)","t":"\\d{4}-""");
        ObjectReader READER = Lines.MAPPER.rebuild()
                .registerSubtypes(Stream.of(Event.class.getPermittedSubclasses())
                .map(type -> new NamedType(type, kind(type))).toArray(NamedType[]::new)).build()
                .readerFor(Event.class);

        /// Passes on every event of a log. Returns where the lines are that cannot be read.
        static List<String> scan(Path log, Lines.Use<Event> use) throws IOException {
            return Lines.scan(log, "", READER, use); // "" because all lines are read
        }

        /// Returns the sessions of the batch. Lines of other events are not parsed.
        static List<SessionEvent> sessions(Path log) {
            var sessions = new ArrayList<SessionEvent>();
            Storage.naming(log, () -> Lines.<SessionEvent>scan(log, "{\"event\":\"session\"", READER,
                    (session, _) -> sessions.add(session)));
            sessions.forEach(session -> session.requireFormat(log));
            return sessions;
        }

        static Optional<Event> read(byte[] line) {
            return Lines.read(READER, line, 0, line.length);
        }

        Instant t();

        /// Returns the id of the row, or an empty text if the event is not about a row.
        default String id() {
            return "";
        }

        /// Returns the user that identifies the attempt, or an empty text if the event is not about an attempt.
        default String user() {
            return "";
        }

        /// Returns the size of the results on disk at that time, or -1 if the event lacks it. If the file is shorter
        /// later, lines were lost, and a server's empty list no longer shows that an attempt was not started.
        default long results() {
            return -1;
        }

        @JsonProperty
        default String event() {
            return kind(getClass());
        }

        /// Returns the word for a type of event in the log, such as `attempt` for [AttemptEvent]. Renaming a type
        /// changes the log's format.
        private static String kind(Class<?> type) {
            return type.getSimpleName().replace("Event", "").toLowerCase(Locale.ROOT);
        }

        /// Records that a session started to work on the batch, or changed its mode.
        ///
        /// @param baseUrl the server's URL, or `demo`
        /// @param appHash a salted hash of the key and the app id
        /// @param sameApp whether only `--same-app` showed that the app is the same as before
        /// @param server  Dify's version
        /// @param auto    whether the tool chose the mode; a later session with *auto* then continues in it
        /// @param input   the path of the CSV relative to the folder of the results, so that both can be moved together
        /// @param typed   the options of the command line, each with its value; a suggested next command repeats those
        ///                that the batch needs
        /// @param again   whether rows could be sent again although an earlier run succeeded or may still succeed
        record SessionEvent(Instant t, int format, String tool, ProcessKey process, String baseUrl, String appHash,
                String appId, @JsonInclude(JsonInclude.Include.NON_DEFAULT) boolean sameApp, String server,
                Mode mode, boolean auto, String input, Csv.Shape choices, String shard,
                List<String> typed, @JsonInclude(JsonInclude.Include.NON_DEFAULT) boolean again,
                long results) implements Event {
            public SessionEvent {
                if (choices == null) choices = Csv.Shape.DEFAULT; // empty choices are left out of the line
            }

            static SessionEvent of(Batch batch, String baseUrl, AppClaim app, String server,
                    List<String> typed, boolean again) {
                var csv = batch.csv().orElseThrow();
                var input = csv.file().input().toAbsolutePath().normalize();
                var folder = batch.files().results().toAbsolutePath().normalize().getParent();
                // no relative path leads to another drive of Windows
                boolean isSameDisk = folder.getRoot().equals(input.getRoot());
                return new SessionEvent(Instant.now(), FORMAT, NAME_AND_VERSION, ProcessKey.own(), baseUrl,
                        // [#with] sets the mode (null), whether it was chosen, and the size of the results (0)
                        app.hash(), app.id(), app.isAssumed(), server, null, false,
                        (isSameDisk ? folder.relativize(input) : input).toString(), csv.shape(),
                        batch.files().shard().map(Shard::toString).orElse(""), typed, again, 0);
            }

            SessionEvent with(Instant t, Mode mode, boolean auto, long results) {
                return new SessionEvent(t, format, tool, process, baseUrl, appHash, appId, sameApp, server, mode, auto,
                        input, choices, shard, typed, again, results);
            }

            Optional<Path> input(Path results) {
                return Optional.of(input).filter(name -> !name.isEmpty())
                        .map(name -> results.resolveSibling(name).normalize());
            }

            /// Refuses a log in another format, because a line with another meaning could hide a request that was sent.
            void requireFormat(Path log) {
                if (format != FORMAT) throw new Unusable(log + ": log format " + format + ", written by "
                        + (tool.isEmpty() ? "another version" : Text.printable(tool, 60)) // a file may contain any text
                        + "; this version uses format " + FORMAT,
                        "use that version, or choose another -o");
            }
        }

        /// Identifies a process of one machine. The system may reuse its id for another process, but that process
        /// starts later.
        record ProcessKey(long id, Instant started) {
            /// Returns this process, or null if the system does not report when it started.
            static ProcessKey own() {
                var own = ProcessHandle.current();
                return own.info().startInstant().map(started -> new ProcessKey(own.pid(), started)).orElse(null);
            }

            /// Returns whether another process of this machine has this id and started at this time. They may differ by
            /// 2 seconds, because setting the clock shifts the start times that Linux reports. The own process does not
            /// count, because it runs no session while it asks.
            boolean isOtherAlive() {
                return id != ProcessHandle.current().pid() && ProcessHandle.of(id)
                        .flatMap(process -> process.info().startInstant())
                        .filter(start -> Duration.between(start, started).abs().toSeconds() < 2).isPresent();
            }
        }

        /// Records that shards were merged. It is the last line of a complete merge.
        ///
        /// @param shards how many shards the batch has
        /// @param merged how many shards were merged
        /// @param missing the numbers of shards that have rows but were not there
        /// @param cut the numbers of shards whose results had been longer
        /// @param results the size of the results that were written, in bytes
        record MergeEvent(Instant t, int shards, @JsonProperty(required = true) int merged, List<Integer> missing,
                List<Integer> cut, long results) implements Event {
            List<Shard> missingShards() {
                return missing.stream().map(number -> new Shard(number, shards)).toList();
            }
        }

        /// Records an attempt, before its request is sent. `n` counts the row's retries, and `edited` means that the
        /// shell changed its inputs; it is left out of the line if it is false (`NON_DEFAULT`).
        record AttemptEvent(Instant t, @JsonProperty(required = true) String id, int n, String user,
                @JsonProperty(required = true) Mode mode, String fingerprint,
                @JsonInclude(JsonInclude.Include.NON_DEFAULT) boolean edited, long results) implements Event {
            static AttemptEvent of(Attempt attempt, long results) {
                return new AttemptEvent(attempt.at(), attempt.row().id(), attempt.tries().retries(),
                        attempt.user(), attempt.mode(), attempt.fingerprint(), attempt.isEdited(), results);
            }
        }

        /// Records that Dify started the attempt's run, with the ids of the run and of the task that can be stopped.
        record RunEvent(Instant t, String id, String user, String run, String task) implements Event {}

        /// Records that the run waits for a person, `until` a time if the form has a deadline. Anybody with its `token`
        /// can answer the form, so only the log and the view of a single row contain it.
        record FormEvent(Instant t, String id, String user, String run, String node, String token, String until)
                implements Event {
            String text() {
                return Text.printable(node, 60) + untilText(until);
            }

            static String untilText(String until) {
                return until.isEmpty() ? "" : ", until " + Times.local(Times.parse(until));
            }
        }

        /// Records that an attempt is over without a success. `outcome` is failed, paused, unknown, or another word
        /// that docs/files.md explains. `http` is the status of a refusal, or 0. `results` is always in the line,
        /// because a size of 0 has a meaning.
        @JsonInclude(JsonInclude.Include.NON_DEFAULT)
        record EndEvent(Instant t, @JsonProperty(required = true) String id, String user,
                @JsonProperty(required = true) String outcome, String fingerprint, String run, int http, String error,
                double seconds, long tokens, BigDecimal price, String currency, boolean edited,
                @JsonInclude(JsonInclude.Include.ALWAYS) long results) implements Event {
            /// Returns the outcome of the row, or empty if the row stays pending.
            Optional<RowStatus> status() {
                return RowStatus.of(outcome).filter(status -> !status.isSuccess());
            }

            /// Creates the event of an attempt that has ended with this response. The error may be a server's text of
            /// any length, so it is cut.
            static EndEvent of(Attempt attempt, Instant now, String outcome, Response response, String error,
                    long results) {
                var usage = response instanceof Response.Ran ran ? ran.usage() : Usage.NONE;
                return new EndEvent(now, attempt.row().id(), attempt.user(), outcome, attempt.fingerprint(),
                        response.run().map(RunRef::id).orElse(""),
                        response instanceof Response.Refused refused ? refused.status() : 0,
                        Text.printable(error, Text.MAX_ERROR_LENGTH), attempt.took(response, now).toMillis() / 1000.0,
                        usage.tokens(), usage.price().orElse(null), usage.currency(), attempt.isEdited(), results);
            }
        }

        /// Records that an attempt's run was looked up, and what the server reported.
        record LookEvent(Instant t, String user, String run, String saw) implements Event {}

        /// Records that a look-up found a result, which was taken instead of running the row again.
        record HarvestEvent(Instant t, String user, String run) implements Event {}

        /// Records that Dify was asked to stop a task. Without a `user`, it records that the session ended, and `why`
        /// it ended early if it did.
        record StopEvent(Instant t, String why, String user, String task, long results) implements Event {
            static final String INTERRUPTED = "interrupted", TIMED_OUT = "timed out";

            /// Returns whether the session was interrupted and stopped this run. Its row has not failed but is pending
            /// again. A run that timed out has failed.
            boolean isOfInterruptedRun() {
                return !user.isEmpty() && why.equals(INTERRUPTED);
            }
        }

        /// Records that the server was full, so that at most `limit` rows run at a time from then on.
        record ThrottleEvent(Instant t, String user, String why, int limit) implements Event {}

        /// Records that the run of an attempt appeared after its row was sent again.
        record LateEvent(Instant t, @JsonProperty(required = true) String id, String user, String run, String saw)
                implements Event {}

        /// Records that so many bytes of a torn last line were cut off a file, at this offset.
        record TornEvent(Instant t, String file, long at, long bytes) implements Event {}
    }

    /// Reads the lines of a file, in order or by offset. Byte order marks before a line are skipped, because `cat` of
    /// several files leaves them there. Bytes are searched for line breaks and only lines that matter are parsed,
    /// because a log may have millions of lines.
    static final class Lines implements AutoCloseable {
        /// Holds the byte order mark of UTF-8. The results begin with it, because those of the original tool do.
        static final byte[] BOM = {(byte) 0xEF, (byte) 0xBB, (byte) 0xBF};
        /// Reads lines of a batch. Unknown fields are ignored, because the original tool and later versions have
        /// others. Text after the JSON is an error, because it comes from two lines that were joined. Missing and null
        /// lists are empty. A line without a valid time is not ours.
        static final JsonMapper MAPPER = Json.MAPPER.rebuild()
                .disable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES)
                .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
                .withConfigOverride(List.class, list ->
                        list.setSetterInfo(JsonSetter.Value.construct(Nulls.AS_EMPTY, Nulls.AS_EMPTY)))
                .withConfigOverride(Instant.class, time ->
                        time.setSetterInfo(JsonSetter.Value.forValueNulls(Nulls.FAIL)))
                .addModule(new SimpleModule().addDeserializer(Instant.class,
                        new FromStringDeserializer<>(Instant.class) {
                            @Override
                            protected Instant _deserialize(String text, DeserializationContext context) {
                                return Times.parse(text);
                            }
                        })).build();
        static final ObjectReader TREE = MAPPER.readerFor(ObjectNode.class);
        /// A seek reads so many bytes of a page before its line. Rows that follow each other have their lines close
        /// together in the file, but in any order, so that the next seek often finds its line in the same page.
        private static final int SEEK_BACK = 1 << 14;

        final Path path;
        private final FileChannel file; // null if the file does not exist
        private byte[] page = new byte[1 << 16]; // a part of the file; grows if a line is longer
        /// `first` is the offset in the file at which the page begins, and `number` is the line's number, from 1.
        private long first = 0, number = 0;
        /// Holds offsets in the page. `filled` is where its bytes end. `begin` is where the line begins, `start` where
        /// its text does after byte order marks, and `end` where it ends.
        private int filled = 0, begin = 0, start = 0, end = -1;

        Lines(Path path) {
            this.path = path;
            file = Storage.exists(path) ? Storage.naming(path, () -> FileChannel.open(path)) : null;
        }

        /// Takes the value of a line, and the line itself, which is valid only until the next line is read.
        interface Use<T> {
            void line(T value, Lines line) throws IOException;
        }

        /// Reads each line that starts with `beginning`. Returns where the lines are that cannot be read. Blank lines
        /// and a last line that is still being written are not among them.
        static <T> List<String> scan(Path file, String beginning, ObjectReader reader, Use<T> use) throws IOException {
            var bad = new ArrayList<String>();
            var head = beginning.getBytes(UTF_8);
            try (var lines = new Lines(file)) {
                while (lines.next()) {
                    if (!lines.startsWith(head)) continue;
                    var value = lines.<T>read(reader);
                    if (value.isPresent()) use.line(value.get(), lines);
                    else if (lines.isWhole() && !new String(lines.bytes(), ISO_8859_1).isBlank())
                        bad.add(file + ":" + lines.number);
                }
            }
            return bad;
        }

        /// Moves to the next line. Returns false at the end of the file.
        boolean next() {
            long place = first + end + 1;
            if (!find(place)) fill(place, place);
            number++;
            return end < filled || begin < end; // a last line may have no line break
        }

        /// Moves to the line at this offset. The line is empty if the file has become shorter.
        Lines seek(long place) {
            if (place < first || place >= first + filled || !find(place)) fill(place, Math.max(0, place - SEEK_BACK));
            return this;
        }

        /// Reads a page of the file, from the offset `from`, that contains the whole line at `place`.
        private void fill(long place, long from) {
            first = from;
            while (true) {
                var room = ByteBuffer.wrap(page);
                while (file != null && room.hasRemaining()
                        && Storage.naming(path, () -> file.read(room, first + room.position())) >= 0) {}
                filled = room.position();
                if (find(place) || room.hasRemaining()) return; // room is left only at the end of the file
                page = new byte[page.length * 2]; // the line is longer than the page
            }
        }

        /// Finds the line at this offset in the page. Returns false if its line break is not in the page; the last line
        /// of a file may have none. The loop looks at each byte of long files, and local variables make it faster.
        private boolean find(long place) {
            begin = start = (int) (place - first);
            var bytes = page;
            int at = begin, most = filled;
            while (at < most && bytes[at] != '\n') at++;
            end = at;
            while (startsWith(BOM)) start += BOM.length;
            return end < filled;
        }

        /// Returns the offset of the line in the file.
        long place() {
            return first + begin;
        }

        /// Returns whether the line has its line break. Another process may still be writing a line without one.
        boolean isWhole() {
            return end < filled;
        }

        byte[] bytes() {
            return Arrays.copyOfRange(page, start, end);
        }

        boolean startsWith(byte[] beginning) {
            int length = beginning.length;
            return end - start >= length && Arrays.equals(page, start, start + length, beginning, 0, length);
        }

        void copyTo(OutputStream out) throws IOException {
            out.write(page, start, end - start);
            out.write('\n');
        }

        <T> Optional<T> read(ObjectReader reader) {
            return read(reader, page, start, end - start);
        }

        /// Reads the JSON of a line, or returns empty if it cannot be read as this type.
        static <T> Optional<T> read(ObjectReader reader, byte[] line, int from, int length) {
            // Jackson would take a zero or a byte order mark (FE FF) for UTF-16; no text in UTF-8 begins so
            if (length < 2 || line[from] == 0 || line[from + 1] == 0 || line[from] == -1 || line[from] == -2)
                return Optional.empty();
            try {
                return Optional.ofNullable(reader.readValue(line, from, length));
            } catch (IOException | NumberFormatException _) { // Jackson throws the latter for 1e99999999999
                return Optional.empty();
            }
        }

        @Override
        public void close() {
            if (file != null) Storage.close(path, file);
        }
    }

    // ── Input ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Reads a table as often as needed, one row after the other, so that it need not fit into the memory. It is a CSV
    /// (RFC 4180), or the copy of a workbook or of JSON in that form. Opening it reads the header, and [#check] reads
    /// all of it.
    ///
    /// @param edits  the shell's edits, which change a row when it is read
    /// @param faults the faults that options would repair. The rest of the table was read with these options, but only
    ///               to find what else is wrong. The user has not chosen them, so [#check] refuses the table
    record Csv(TextFile file, Header header, Shape shape, List<Input> inputs, Input idColumn,
            UnaryOperator<Row> edits, Optional<Shard> shard, List<Faulty> faults) implements AutoCloseable {
        /// The search for an id column stops after so many rows, because the values of all columns stay in memory.
        private static final int MAX_SEARCHED_ROWS = 100_000;
        /// Numbers the rows if it is the value of `--id-column`.
        static final String NUMBERS = "#";
        /// Stands for the id of a row that has none. Such a row is only inspected and never sent.
        private static final String NO_ID = "-";
        private static final String NUMBERED = "--id-column '#' numbers the rows instead";
        /// Matches values that look like ids. They have at least one digit and at most 100 characters, and are not a
        /// sentence, a number with decimals, a date or JSON.
        private static final Pattern ID = Pattern.compile(
                "(?=.*\\d)(?!\\d{4}-\\d\\d-\\d\\d|[\\d:/-]*[.,:/][\\d.,:/-]*$)[^\\s\"{}]{1,100}");

        /// Holds a column, or a constant of `--var`. `title` is its name in the file, and `name` is the variable's name
        /// that `--map` gives to it, or the title. `place` is its index in the file, or -1 for row numbers and
        /// constants, which are not in the file.
        record Input(String title, String name, int place) {}

        /// Holds the user's choices about the input. A choice that is empty or null is left to the file.
        @JsonInclude(JsonInclude.Include.NON_EMPTY)
        record Shape(String idColumn, Charset encoding, Character delimiter, String sheet, Long headerRow,
                Character decimal, String queryColumn, Map<String, String> map, Map<String, String> vars) {
            static final Shape DEFAULT = new Shape("", null, null, "", null, null, "", Map.of(), Map.of());

            Shape { // Jackson passes null for what the log lacks
                map = map == null ? Map.of() : map;
                vars = vars == null ? Map.of() : vars;
            }

            /// Adds the choices of earlier sessions. Typed options replace them, because people save a file again with
            /// another encoding or without its title. Rows that are then read differently count as changed.
            ///
            /// Some options cannot be replaced. With another decimal mark or question column, rows would change
            /// unnoticed, because their hash is one of their cells. With another header row or worksheet, numbered rows
            /// would get the ids of other rows. [Csv#requireSameIds] checks the id column.
            Shape after(Shape before, Path log) {
                // an earlier mapping or constant goes if its variable now gets its value from elsewhere
                var mapped = new LinkedHashMap<>(before.map);
                mapped.values().removeIf(name -> map.containsValue(name) || vars.get(name) != null);
                mapped.putAll(map);
                mapped.values().removeIf(Objects::isNull); // `--map COLUMN=` drops a mapping
                var constants = new LinkedHashMap<>(before.vars);
                constants.keySet().removeIf(map::containsValue);
                constants.putAll(vars);
                constants.values().removeIf(Objects::isNull); // and `--var NAME` a constant
                requireSame("--decimal", decimal, before.decimal, log);
                requireSame("--query-column", queryColumn, before.queryColumn, log);
                if (before.idColumn.equals(NUMBERS)) {
                    requireSame("--header-row", headerRow, before.headerRow, log);
                    requireSame("--sheet", sheet, before.sheet, log);
                }
                ObjectNode choices = Json.MAPPER.valueToTree(before);
                // an option that was not typed is not in the tree of `this`, so the earlier choice stays
                choices.setAll(Json.MAPPER.<ObjectNode>valueToTree(this));
                return of(choices.putPOJO("map", mapped).putPOJO("vars", constants));
            }

            /// Refuses an option with another value than before. A choice that is empty or null was not made.
            static void requireSame(String option, Object typed, Object before, Path log) {
                boolean isTyped = typed != null && !typed.equals(""), isKnown = before != null && !before.equals("");
                if (isTyped && isKnown && !typed.equals(before))
                    throw new Unusable(log + ": this batch was started with " + option + " "
                            + Text.shell(before.toString()) + ", not " + Text.shell(typed.toString()),
                            "leave out " + option + ", or choose another -o");
            }

            private static Shape of(ObjectNode choices) {
                return Json.MAPPER.convertValue(choices, Shape.class);
            }

            /// Returns the choices with the option that repairs a fault. The option `--id-column` is the field
            /// `id_column`.
            Shape with(Faulty.Repair repair) {
                ObjectNode choices = Json.MAPPER.valueToTree(this);
                return of(choices.putPOJO(repair.name().substring(2).replace('-', '_'), repair.value()));
            }

            boolean hasDecimalComma() {
                return decimal != null && decimal == ',';
            }

            /// Returns a hint with the options that drop a name which `--map` or `--var` gave, or an empty text if
            /// neither did.
            String waysToDrop(String name) {
                var options = map.entrySet().stream().filter(entry -> entry.getValue().equals(name))
                        .map(entry -> "--map " + Text.shell(entry.getKey() + "=")).collect(joining(" or "));
                if (!options.isEmpty()) return options + " drops the mapping";
                return vars.containsKey(name) ? "--var " + Text.shell(name) + " drops the constant" : "";
            }
        }

        /// Refuses another id column than before, because the rows could not be matched with their results. Upper and
        /// lower case may differ, unless the file also has the former title. If the table has faults, a repair may have
        /// chosen the id column, and [#check] refuses the table anyway.
        void requireSameIds(String before, Path log) {
            boolean isSame = idColumn.title().equalsIgnoreCase(before) && !header.titles().contains(before);
            if (faults.isEmpty() && !isSame) Shape.requireSame("--id-column", idColumn.title(), before, log);
        }

        static Csv open(Path input, Shape shape) {
            try {
                return read(TextFile.rereadable(input), shape, List.of());
            } catch (IOException problem) {
                throw new Unusable(input + ": " + Text.reason(problem));
            }
        }

        /// Reads the header. After a fault that an option repairs, it is read again with that option, so that all
        /// faults are reported together.
        private static Csv read(TextFile source, Shape shape, List<Faulty> faults) throws IOException {
            try {
                var file = TextFile.of(source, shape);
                return of(file, Header.of(file, shape), shape, faults);
            } catch (Faulty fault) {
                var all = Stream.concat(faults.stream(), Stream.of(fault)).toList();
                if (fault.repair.isPresent()) return read(source, shape.with(fault.repair.get()), all);
                new TextFile.Problems(source).addAll(all).refuse();
                throw fault; // never reached, because there is at least one fault to refuse
            }
        }

        /// Reads the table again after a fault that became known only below the header, such as a wrong encoding. This
        /// is for a report of all faults.
        Csv after(Faulty fault) throws IOException {
            var repair = fault.repair.orElseThrow(() -> fault);
            return read(file, shape.with(repair), Stream.concat(faults.stream(), Stream.of(fault)).toList());
        }

        /// Gives each column the name of its variable, and adds row numbers and constants. Choices of an earlier
        /// session must still fit the file. A column without a name is left out, because nobody can mean it. An id
        /// column and a mapped column are chosen by their number.
        private static Csv of(TextFile file, Header header, Shape shape, List<Faulty> faults) {
            var inputs = new ArrayList<Input>();
            int id = idColumn(file, header, shape);
            if (id < 0) inputs.add(new Input(NUMBERS, NUMBERS, -1)); // before the constants, which have -1, too
            for (int place = 0; place < header.names().size(); place++) {
                var title = header.title(place);
                if (!header.names().get(place).isEmpty() || place == id || shape.map().containsKey(title))
                    inputs.add(new Input(title, shape.map().getOrDefault(title, title), place));
            }
            shape.vars().keySet().forEach(name -> inputs.add(new Input(name, name, -1)));
            shape.map().forEach((column, name) -> {
                var option = "--map " + Text.shell(column + "=");
                if (!header.titles().contains(column)) throw file.unusable(header.line(), 0, option + Text.shell(name)
                        + ": no column " + Text.quoted(column), header.hint() + "; " + option + " drops the mapping");
            });
            var names = new HashSet<String>();
            for (var input : inputs) if (!names.add(input.name())) throw file.unusable(header.line(), 0,
                    "duplicate column " + Text.quoted(input.name()), shape.waysToDrop(input.name()));
            var idColumn = inputs.stream().filter(input -> input.place() == id).findFirst().orElseThrow();
            // the log stores these choices, so that later sessions use the same columns and worksheet
            var chosen = new Shape(idColumn.title(), shape.encoding(), shape.delimiter(), file.sheet(),
                    shape.headerRow(), shape.decimal(),
                    shape.queryColumn().isEmpty() ? "query" : shape.queryColumn(), shape.map(), shape.vars());
            return new Csv(file, header, chosen, inputs, idColumn, UnaryOperator.identity(), Optional.empty(), faults);
        }

        /// Returns the index of the id column, or -1 to number the rows. Case matters only if it is needed to tell
        /// columns apart.
        private static int idColumn(TextFile file, Header header, Shape shape) {
            var names = header.titles();
            var name = shape.idColumn().isEmpty() ? "id" : shape.idColumn();
            if (names.contains(name)) return names.indexOf(name);
            var found = names.stream().filter(name::equalsIgnoreCase).toList();
            if (found.size() == 1) return names.indexOf(found.getFirst());
            if (name.equals(NUMBERS)) return -1; // not before, because a column may have this title
            var where = shape.headerRow() == null ? "" : " in the row of --header-row " + shape.headerRow();
            // at most five, to fit on a line; the first one is used to read on
            var repairs = Stream.concat(unique(file, header).limit(5), Stream.of(NUMBERS))
                    .map(column -> new Faulty.Repair("--id-column", column)).toList();
            throw new Faulty(file, header.line(), 0, "no column " + Text.quoted(name) + where, "use "
                    + repairs.stream().map(Faulty.Repair::option).collect(joining(", or "))
                    + " to number the rows; " + header.hint(), Optional.of(repairs.getFirst()));
        }

        /// Returns the columns with names whose values look like ids and differ from each other in all rows, or in the
        /// first 100,000 rows of a longer file.
        private static Stream<String> unique(TextFile file, Header header) {
            var names = header.names();
            var values = names.stream().map(_ -> new HashSet<String>()).toList();
            int rows = 0;
            try (var records = header.records(file)) {
                for (var row = records.next(); row != null && rows < MAX_SEARCHED_ROWS; row = records.next()) {
                    rows++;
                    for (int i = 0; i < Math.min(row.size(), names.size()); i++)
                        if (ID.matcher(row.get(i).strip()).matches()) values.get(i).add(row.get(i).strip());
                }
            }
            int most = rows;
            return IntStream.range(0, names.size()).filter(i -> !names.get(i).isEmpty()
                    && values.get(i).size() == most).mapToObj(names::get);
        }

        /// Returns this table with the shell's edits of its rows.
        Csv with(UnaryOperator<Row> edits) {
            return new Csv(file, header, shape, inputs, idColumn, edits, shard, faults);
        }

        /// Returns this table limited to the rows of a shard.
        Csv with(Optional<Shard> shard) {
            return new Csv(file, header, shape, inputs, idColumn, edits, shard, faults);
        }

        List<String> columns() {
            return inputs.stream().map(Input::name).toList();
        }

        boolean isId(String column) {
            return idColumn.name().equals(column);
        }

        /// Returns whether `--map` or `--var` gave this name.
        boolean isNamed(String column) {
            return shape.map().containsValue(column) || shape.vars().containsKey(column);
        }

        Input input(String column) {
            return inputs.stream().filter(input -> input.name().equals(column)).findFirst().orElseThrow();
        }

        /// Returns the merged ranges of a workbook that leave a cell of these columns empty, because only the first
        /// cell of a merged range has a value. Ranges above the column names do not matter.
        List<String> merged(Set<String> columns) {
            var places = columns.stream().map(column -> input(column).place()).toList();
            return file.extras().merged().stream().filter(range -> range.getLastRow() >= header.line()
                    && places.stream().anyMatch(place -> range.containsColumn(place)
                            && (place > range.getFirstColumn() || range.getLastRow() > range.getFirstRow())))
                    .map(CellRangeAddress::toString).toList();
        }

        String where(long line, String column) {
            return file.where(line, input(column).place());
        }

        /// Returns what the user should be informed of although it is no fault.
        List<String> notes() {
            var notes = new ArrayList<String>();
            if (header.prefix().length() > 1) // more than a byte order mark
                notes.add("using the delimiter from line 1 (\"sep=" + header.delimiter() + "\")");
            var unnamed = header.titles().stream().filter(title -> !header.names().contains(title)
                    && inputs.stream().noneMatch(input -> input.title().equals(title))).toList();
            if (!unnamed.isEmpty()) notes.add("not sending columns without a name: "
                    + Text.joinFirst(5, unnamed.stream())
                    + " (to send one: --map " + Text.shell(unnamed.getFirst() + "=VARIABLE") + ")");
            notes.addAll(file.extras().notes());
            if (idColumn.place() < 0)
                notes.add("the rows are numbered: inserting or removing a row changes the ids of those below");
            return notes;
        }

        /// Reads every row once. Throws all faults as one. Returns how many rows belong to other shards.
        ///
        /// @param use takes each row, and returns what is wrong with its id, such as a duplicate
        int check(Function<Row, Optional<String>> use) {
            new TextFile.Problems(file).addAll(faults).refuse(); // before a long file is read
            var found = new TextFile.Problems(file);
            int ofOtherShards = survey(_ -> {}, use, found::add);
            found.refuse();
            return ofOtherShards;
        }

        /// Reads every row once and reports each fault. Returns how many rows belong to other shards. The inspector
        /// comes before the id is checked, so that a report of a row without an id includes its cells.
        ///
        /// @param inspector takes all rows that have all cells, including rows with an unusable id
        /// @param use       takes all rows that can be used, and returns what is wrong with the id
        int survey(Consumer<Row> inspector, Function<Row, Optional<String>> use, Consumer<Faulty> onFault) {
            int ofOtherShards = 0;
            file.extras().faults().forEach(onFault); // cells of a workbook that cannot be read
            try (var rows = new Rows()) {
                while (rows.next()) {
                    var fault = rows.shapeFault();
                    if (fault.isEmpty()) {
                        var row = rows.row();
                        inspector.accept(row);
                        fault = rows.idFault().or(() -> use.apply(row).map(rows::unusableId));
                    }
                    fault.ifPresent(onFault);
                }
                if (rows.number == 0) throw new Unusable(file.name() + ": no rows below the header");
                ofOtherShards = rows.ofOtherShards;
            } catch (Faulty end) {
                if (end.repair.isPresent()) throw end; // [#after] reads the rest with the option
                onFault.accept(end); // after an unclosed quote, the rest cannot be divided into cells
            }
            return ofOtherShards;
        }

        /// Returns the wanted rows in the file's order, and reads no further than the last of them. Each row must still
        /// be as it was when the file was checked; otherwise a row could be sent with the cells of another one.
        ///
        /// @param checked returns the hash that a row had when it was checked
        Iterator<Row> rows(BitSet wanted, IntToLongFunction checked) {
            if (wanted.isEmpty()) return Collections.emptyIterator();
            var rows = new Rows();
            return wanted.stream().mapToObj(entry -> {
                boolean isThere = true;
                while (isThere && rows.index < entry) isThere = rows.next();
                boolean isRow = isThere && rows.shapeFault().isEmpty() && rows.idFault().isEmpty();
                var row = isRow ? rows.row() : null;
                if (row == null || checked.applyAsLong(entry) != row.fingerprint())
                    throw file.unusable(rows.records.line, 0, "the file was changed while it was in use",
                        "run the same command again when the file is complete");
                if (entry == wanted.length() - 1) rows.close(); // after the last wanted row
                return edits.apply(row);
            }).iterator();
        }

        /// Holds a position in the file, at first before the first row.
        private final class Rows implements AutoCloseable {
            final Records records = header.records(file);
            List<String> cells;
            /// `index` counts the rows of this shard from 0, and `number` all rows from 1.
            int index = -1, number = 0, ofOtherShards = 0;

            /// Moves to the next row. Returns false at the end. A row without an id belongs to every shard, so that
            /// each shard reports it.
            boolean next() {
                for (cells = records.next(); cells != null; cells = records.next()) {
                    number++;
                    if (shard.isEmpty() || id().isEmpty() || shard.get().holds(id())) {
                        index++;
                        return true;
                    }
                    ofOtherShards++;
                }
                return false;
            }

            String id() {
                int place = idColumn.place();
                if (place < 0) return Integer.toString(number); // the same number in every shard
                return place < cells.size() ? cells.get(place).strip() : "";
            }

            private Faulty fault(String problem) {
                return file.unusable(records.line, problem);
            }

            /// Returns a fault if the row's cells do not fit the header, or empty if they do.
            Optional<Faulty> shapeFault() {
                var names = header.names();
                // a workbook leaves out the last cells if they are empty, and Excel's CSV those without a name
                boolean isWhole = cells.size() <= names.size() && (!file.sheet().isEmpty()
                        || names.stream().skip(cells.size()).allMatch(String::isEmpty));
                return isWhole ? Optional.empty() : Optional.of(fault(Text.count(cells.size(), "cell")
                        + ", but the header has " + names.size()
                        + " (a missing or extra delimiter, or an unclosed quote?)"));
            }

            /// Returns a fault if the id cannot be used, or empty if it can. Each id is a line of the retry list.
            Optional<Faulty> idFault() {
                var id = id();
                if (id.isEmpty()) return Optional.of(unusableId("blank id"));
                if (Secret.current().occursIn(id)) // files would have a mask instead, so the row would not be found
                    return Optional.of(fault("id contains the API key"));
                return id.chars().noneMatch(Character::isISOControl) ? Optional.empty() : Optional.of(fault("the id "
                        + Text.quoted(id) + " contains a control character or a line break"));
            }

            /// Creates the fault of an unusable id. To number the rows would discard the good ids of other rows, so
            /// this is only a hint and not an option that a suggested command contains.
            Faulty unusableId(String problem) {
                return file.unusable(records.line, 0, problem, NUMBERED);
            }

            Row row() {
                var values = LinkedHashMap.<String, String>newLinkedHashMap(inputs.size());
                for (var input : inputs) values.put(input.name(), value(input));
                var id = id().isEmpty() ? NO_ID : id();
                // not edited (false), because `edits` is applied later
                return new Row(index, records.line, id, values, Fingerprint.of(values), false, typed());
            }

            /// Returns the columns whose cell was a number or a date in a workbook or in JSON. An id is always a text.
            private Set<String> typed() {
                if (!file.isCopy()) return Set.of();
                return inputs.stream().filter(input -> input != idColumn && records.isTyped(input.place()))
                        .map(Input::name).collect(Collectors.toSet());
            }

            private String value(Input input) {
                if (input == idColumn) return id(); // without spaces around it, or the row's number
                if (input.place() < 0) return shape.vars().get(input.name());
                return input.place() < cells.size() ? cells.get(input.place()) : "";
            }

            @Override
            public void close() {
                records.close();
            }
        }

        /// Writes these rows as the file was: with its encoding, its delimiter, its titles and what precedes them.
        /// Constants are left out, because they are not in the file.
        void write(OutputStream to, Iterator<Row> rows) throws IOException {
            var text = new OutputStreamWriter(to, file.charset().newEncoder());
            text.write(header.prefix());
            var out = new CellWriter(text, header.delimiter());
            var own = inputs.stream().filter(input -> input.place() >= 0).toList();
            out.write(own.stream().map(Input::title).toList());
            while (rows.hasNext()) {
                var cells = rows.next().inputs();
                out.write(own.stream().map(input -> cells.get(input.name())).toList());
            }
            out.flush();
        }

        @Override
        public void close() {
            file.copies().close();
        }

        /// Describes the layout of a CSV.
        ///
        /// @param prefix what precedes the table: a byte order mark, the line `sep=;`, both or nothing
        /// @param line   the line of the column names, or -1 if they have not been read yet
        /// @param names  the column names, empty for a column without a name
        record Header(String prefix, char delimiter, long line, List<String> names) {
            /// Matches a byte order mark and the line with which Excel marks the delimiter.
            private static final Pattern PREFIX = Pattern.compile("\uFEFF?((\"?)sep=(.)\\2(\r\n|\r|\n|$))?",
                    Pattern.CASE_INSENSITIVE);

            /// Finds the row of the column names. It is the given one, or the first with text unless that is a title. A
            /// typed delimiter comes before one from the file, and a guess comes last. A worksheet has as many columns
            /// as its widest row, so the names are filled up with empty ones.
            static Header of(TextFile file, Csv.Shape shape) {
                var prefix = PREFIX.matcher(file.start());
                prefix.lookingAt(); // always matches, but perhaps nothing
                long wanted = shape.headerRow() == null ? 0 : shape.headerRow();
                char delimiter = likelyDelimiter(file.start().substring(prefix.end()).lines()
                        .skip(Math.max(0, wanted - 1)));
                if (prefix.group(3) != null) delimiter = prefix.group(3).charAt(0);
                if (shape.delimiter() != null) delimiter = shape.delimiter();
                if (file.isCopy()) delimiter = ','; // because we wrote the copy
                try (var records = new Header(prefix.group(), delimiter, -1, List.of()).records(file)) {
                    var names = records.next();
                    if (names == null) throw new Unusable(file.name() + ": empty, no header");
                    while (names != null && records.line < wanted) names = records.next();
                    long line = records.line;
                    // the given row is blank or beyond the end
                    if (shape.headerRow() != null && (names == null || line != wanted))
                        throw new Unusable(file.name() + ": --header-row " + wanted + ": no column names there");
                    if (shape.headerRow() == null) refuseTitle(file, names, records);
                    var all = new ArrayList<>(names);
                    all.addAll(Collections.nCopies(Math.max(0, file.extras().width() - names.size()), ""));
                    return new Header(prefix.group(), delimiter, line, all.stream().map(String::strip).toList());
                }
            }

            /// Refuses a first row that is a title. A title has at most half as many cells with text as the widest of
            /// the next 20 rows, among which the table begins. The first cells of column names may be blank, because
            /// pandas writes its index without a name.
            private static void refuseTitle(TextFile file, List<String> first, Records records) {
                var lines = new TreeMap<Long, Long>();
                long line = records.line, filled = cellsWithText(first);
                try {
                    for (var row = records.next(); row != null && lines.size() < 20; row = records.next())
                        lines.put(records.line, cellsWithText(row));
                } catch (Faulty _) {
                    // the fault is found again when all rows are read
                }
                long widest = lines.isEmpty() ? 0 : Collections.max(lines.values());
                if (filled * 2 > widest - first.stream().takeWhile(String::isBlank).count()) return;
                // the first row that is more than half as wide as the widest
                long likelyHeaderRow = lines.keySet().stream().filter(row -> lines.get(row) * 2 > widest)
                        .findFirst().orElse(line);
                var repair = new Faulty.Repair("--header-row", likelyHeaderRow);
                throw new Faulty(file, line, 0, Text.count(filled, "cell") + ", but " + widest + " in a row below it",
                        "use " + repair.option() + " if the column names are there", Optional.of(repair));
            }

            private static long cellsWithText(List<String> cells) {
                return cells.stream().filter(cell -> !cell.isBlank()).count();
            }

            /// Guesses the delimiter from the first line with text that contains it as often as the next line does,
            /// because a title may be above the table. Only 20 lines are compared, because a table begins near the top.
            /// Without two such lines, the first line decides. Quoted text is left out, because it may contain
            /// delimiters.
            private static char likelyDelimiter(Stream<String> text) {
                var lines = text.collect(joining("\n")).replaceAll("\"[^\"]*\"", "x").lines()
                        .filter(line -> !line.replaceAll("[,;\t]", "").isBlank()).limit(20).toList();
                for (int i = 0; i + 1 < lines.size(); i++) {
                    char likely = likelyDelimiter(lines.get(i));
                    long count = count(lines.get(i), likely);
                    boolean isTable = count == count(lines.get(i + 1), likely);
                    // below the first line, a single comma may be part of a text
                    if (isTable && count > Math.min(i, 1)) return likely;
                }
                return lines.isEmpty() ? ',' : likelyDelimiter(lines.getFirst());
            }

            private static char likelyDelimiter(String line) {
                return Stream.of(',', ';', '\t').max(Comparator.comparingLong(one -> count(line, one))).orElseThrow();
            }

            private static long count(String line, char one) {
                return line.chars().filter(c -> c == one).count();
            }

            /// Returns the file's records below the column names. Lines are counted from 1, or from 2 after a line
            /// `sep=`.
            Records records(TextFile file) {
                var records = new Records(file, delimiter, prefix.length(), prefix.length() > 1 ? 2 : 1);
                while (line >= 0 && records.next() != null && records.line < line) {
                    // a title above the column names
                }
                return records;
            }

            /// Returns the name of a column, or its number (`column 3`) if the file has no name for it.
            String title(int place) {
                return names.get(place).isEmpty() ? "column " + (place + 1) : names.get(place);
            }

            List<String> titles() {
                return IntStream.range(0, names.size()).mapToObj(this::title).toList();
            }

            /// Returns the names of the columns as a hint, cut to 300 characters because a file may have hundreds.
            String hint() {
                var named = names.stream().filter(name -> !name.isEmpty()).collect(joining(", "));
                return "the columns are " + Text.printable(named, 300);
            }
        }

        /// Reads the records of a CSV, each as a list of its cells. The cells keep their spaces and line breaks.
        /// Unclear quotes are an error.
        ///
        /// opencsv's reader cannot be used. It lets a quote inside an unquoted cell (`5" pipe`) swallow the rows that
        /// follow, and it reports neither text after a closing quote nor the line of an unclosed one.
        private static final class Records implements AutoCloseable {
            /// Limits the characters of a cell, so that an unclosed quote does not fill the memory.
            private static final int MAX_CELL_LENGTH = 64 << 20;

            private final TextFile file;
            private final Reader in;
            private final char delimiter;
            private final char[] buffer = new char[1 << 14]; // a part of the file
            private final StringBuilder cell = new StringBuilder(); // the cell that is being read
            private final BitSet typed = new BitSet(); // see [#isTyped]
            private int at = 0, end = 0; // the next character in the buffer, and the end of its characters
            private long next; // the line of the next character
            long line; // where the current record begins

            /// @param skipped how many characters precede the first record
            /// @param line    the line of the first record
            Records(TextFile file, char delimiter, int skipped, long line) {
                this.file = file;
                this.delimiter = delimiter;
                this.line = next = line;
                try {
                    in = file.reader();
                    in.skip(skipped);
                } catch (IOException problem) {
                    throw file.unusable(line, Text.reason(problem));
                }
            }

            /// Returns the cells of the next record that is not blank, or null at the end of the file.
            List<String> next() {
                while (true) {
                    line = next;
                    if (peek() < 0) return null;
                    if (file.isCopy()) line = takeNumber(); // messages are about the original file
                    var cells = new ArrayList<String>();
                    typed.clear();
                    do {
                        cell.setLength(0);
                        boolean isText = peek() == '"';
                        if (isText) takeQuoted();
                        else takeTo(delimiter);
                        // only the quotes of a copy show what was a text; a CSV may quote any cell
                        typed.set(cells.size(), file.isCopy() && !isText && !cell.isEmpty());
                        cells.add(cell.toString());
                    } while (takeIf(delimiter));
                    takeLineBreak();
                    if (!cells.stream().allMatch(String::isBlank)) return cells;
                }
            }

            /// Reads the number that the record has in the original file.
            private long takeNumber() {
                cell.setLength(0);
                takeTo(delimiter);
                takeIf(delimiter);
                return Long.parseLong(cell, 0, cell.length(), 10);
            }

            /// Returns whether a cell of this record was a number or a date in the original file.
            boolean isTyped(int place) {
                return place >= 0 && typed.get(place);
            }

            /// Adds a quoted cell, without its quotes.
            private void takeQuoted() {
                long opened = next; // for a message, because an unclosed quote is noticed only at the end
                takeIf('"');
                while (true) {
                    takeTo('"');
                    if (peek() < 0) throw file.unusable(opened, "unclosed quote");
                    if (isLineBreak(peek())) cell.append(takeLineBreak());
                    else if (takeIf('"') && takeIf('"')) cell.append('"'); // two quotes mean one
                    else break;
                }
                if (peek() >= 0 && peek() != delimiter && !isLineBreak(peek()))
                    throw file.unusable(next, "text after a closing quote (double a quote inside a quoted cell)");
            }

            private static boolean isLineBreak(int c) {
                return c == '\n' || c == '\r';
            }

            /// Adds to the cell all characters before the next `stop` or line break. The inner loop looks at each
            /// character of the file, so it copies whole pieces of the buffer and stops at an invalid character, too.
            private void takeTo(char stop) {
                while (peek() >= 0) {
                    int from = at;
                    while (at < end && buffer[at] != stop && !isLineBreak(buffer[at])
                            && buffer[at] != TextFile.INVALID) at++;
                    cell.append(buffer, from, at - from);
                    if (cell.length() > MAX_CELL_LENGTH)
                        throw file.unusable(line, "a cell is larger than 64 MiB (an unclosed quote?)");
                    if (at < end && buffer[at] == TextFile.INVALID) throw file.invalid(next);
                    if (at < end) return;
                }
            }

            /// Consumes one line break (LF, CR LF or CR) and returns it. At the end of the file there is none to
            /// consume.
            private String takeLineBreak() {
                next++;
                if (takeIf('\n')) return "\n";
                takeIf('\r');
                return takeIf('\n') ? "\r\n" : "\r";
            }

            /// Consumes the next character if it is the expected one. Returns whether it was.
            private boolean takeIf(char expected) {
                if (peek() != expected) return false;
                at++;
                return true;
            }

            /// Returns the next character without consuming it, or -1 at the end of the file.
            private int peek() {
                if (at == end) try {
                    at = 0;
                    end = Math.max(0, in.read(buffer)); // -1 at the end of the file
                } catch (IOException problem) {
                    throw file.unusable(line, Text.reason(problem));
                }
                return at < end ? buffer[at] : -1;
            }

            @Override
            public void close() {
                try {
                    in.close();
                } catch (IOException _) {
                    // nothing is lost, because the file was only read
                }
            }
        }
    }

    /// Signals that the text of the input has a fault, or several faults that are reported as one.
    static final class Faulty extends Unusable {
        final long line;
        final String place, problem;
        final Optional<Repair> repair;

        /// @param line   0 if the fault does not belong to a line
        /// @param column the index of a workbook's column; other files need none
        /// @param repair the option that would repair the fault, if there is one
        Faulty(TextFile file, long line, int column, String problem, String hint, Optional<Repair> repair) {
            super(file.prefix(line, column) + ": " + problem, hint);
            this.line = line;
            this.place = file.where(line, column);
            this.problem = problem;
            this.repair = repair;
        }

        /// Holds an option about the input that the user can add, such as `--encoding GB18030`.
        record Repair(String name, Object value) {
            String option() {
                return name + " " + Text.shell(value.toString());
            }
        }
    }

    /// Holds the text that is read for an input.
    ///
    /// @param source opens the text from its start, as often as needed
    /// @param start  the first 64 KB of the text, to recognize its format, its delimiter and its header
    /// @param isCopy whether the text is CSV that was made of a workbook or of JSON
    /// @param sheet  the worksheet of a workbook, or an empty text
    /// @param copies the temporary files that are removed at the end
    record TextFile(Path input, IOSupplier<InputStream> source, Charset charset, String start, boolean isCopy,
            String sheet, Extras extras, Copies copies) {
        /// Holds what is known about a workbook besides its cells: the width of the table, the ranges of merged cells,
        /// the cells that cannot be read, and notes.
        record Extras(int width, List<CellRangeAddress> merged, List<Faulty> faults, List<String> notes) {
            static final Extras NONE = new Extras(0, List.of(), List.of(), List.of());
        }

        /// Replaces bytes that are invalid in the encoding. Unicode assigns no character to this number, so no text
        /// contains it, and readers can tell where the bytes were invalid.
        static final char INVALID = '\uFFFE';
        /// Holds the first bytes in hexadecimal of gzip, PNG, JPEG, PDF, and .xls or an encrypted workbook.
        private static final List<String> BINARY = List.of("1f8b", "89504e47", "ffd8ff", "25504446", "d0cf11e0");
        private static final String ZIP = "504b0304";
        /// `JSON` matches a first object, alone or in an array. `ARRAY` matches an array whose first item is an object,
        /// or which is empty. `BRACKET` matches the beginning of any array.
        private static final Pattern JSON = Pattern.compile("\uFEFF?\\s*(\\[\\s*)?\\{\\s*[\"}]"),
                ARRAY = Pattern.compile("\uFEFF?\\s*\\[\\s*(\\{\\s*[\"}]|\\]?\\s*\\z)"),
                BRACKET = Pattern.compile("\uFEFF?\\s*\\[");

        /// Opens an input. Its first bytes decide on its format and not its name, because people rename files. Only
        /// JSON lines that do not begin with an object are recognized by their name, so that the error is about JSON.
        static TextFile of(TextFile source, Csv.Shape shape) throws IOException {
            byte[] start;
            try (var in = source.source.get()) {
                start = in.readNBytes(1 << 16);
            }
            var magic = HexFormat.of().formatHex(start, 0, Math.min(4, start.length));
            var charset = shape.encoding() != null ? shape.encoding() : charset(magic);
            // not a copy (false) and without a worksheet ("")
            var file = new TextFile(source.input, source.source, charset, new String(start, charset), false, "",
                    Extras.NONE, source.copies);
            if (magic.startsWith(ZIP)) return Book.copy(file, shape);
            if (BINARY.stream().anyMatch(magic::startsWith))
                throw new Unusable(file.name() + ": is a binary file",
                        "save it as .xlsx without a password, CSV or JSON lines");
            boolean isJson = JSON.matcher(file.start).lookingAt() || file.isArray() || file.isNamed("jsonl|ndjson");
            if (isJson && shape.headerRow() != null) throw new Unusable(file.name() + ": --header-row "
                    + shape.headerRow() + ": JSON has no header row",
                    "leave out --header-row; choose another -o if the batch was started with it");
            return isJson ? file.rowsOfJson() : file;
        }

        /// Returns the input itself, or a copy of standard input, a pipe or a device, because those can be read only
        /// once.
        static TextFile rereadable(Path input) throws IOException {
            var copies = new Copies(input);
            // the encoding and the other details are not known yet, see [#of]
            return new TextFile(input, source(input, copies), UTF_8, "", false, "", Extras.NONE, copies);
        }

        /// Returns how to open an input. What cannot be read is refused with its reason, because an error of the system
        /// often has none.
        private static IOSupplier<InputStream> source(Path input, Copies copies) throws IOException {
            if (input.toString().equals("-")) return copies.add(System.in::transferTo);
            if (!Storage.exists(input)) throw new Unusable(input + ": no such file");
            if (Files.isDirectory(input)) throw new Unusable(input + ": is a folder, not a file");
            if (!Files.isReadable(input)) throw new Unusable(input + ": permission denied");
            if (Files.isRegularFile(input)) return () -> Files.newInputStream(input);
            try (var in = Files.newInputStream(input)) {
                return copies.add(in::transferTo);
            }
        }

        /// Detects the encoding by the byte order mark. Without one, the text is UTF-8.
        ///
        /// @param magic the first four bytes in hexadecimal
        private static Charset charset(String magic) {
            if (magic.startsWith("fffe")) return StandardCharsets.UTF_16LE;
            return magic.startsWith("feff") ? StandardCharsets.UTF_16BE : UTF_8;
        }

        /// Copies the rows as CSV. Each record begins with the number that its original has in the input. All texts are
        /// quoted, but numbers and dates are not, so that [Csv.Records] can tell them apart.
        TextFile copied(IOConsumer<Writer> rows) throws IOException {
            var copy = copies.add(out -> {
                var text = new BufferedWriter(Json.utf8(out));
                rows.accept(text);
                text.flush();
            });
            var start = isArray() ? "[" : ""; // messages then count the items of the array
            return new TextFile(input, copy, UTF_8, start, true, sheet, extras, copies);
        }

        static void write(Writer out, long number, List<String> cells) throws IOException {
            out.write(number + "," + String.join(",", cells) + "\n");
        }

        static String quoted(String text) {
            return '"' + text.replace("\"", "\"\"") + '"';
        }

        TextFile with(Extras extras) {
            return new TextFile(input, source, charset, start, isCopy, sheet, extras, copies);
        }

        /// Returns the input for messages about this worksheet. Its `start` is empty, because a workbook is not a text.
        TextFile ofSheet(String sheet) {
            return new TextFile(input, source, UTF_8, "", false, sheet, extras, copies);
        }

        /// Converts JSON objects to CSV. The columns are all names that occur in any of the objects, so the text is
        /// read twice: first for the names, and then for the cells.
        private TextFile rowsOfJson() throws IOException {
            var columns = new LinkedHashSet<String>();
            read((_, object) -> object.fieldNames().forEachRemaining(columns::add));
            if (columns.isEmpty()) throw new Unusable(name() + ": no rows", "write each row as a JSON object");
            return copied(out -> {
                // 0, because the column names are in no line
                write(out, 0, columns.stream().map(TextFile::quoted).toList());
                read((number, object) -> write(out, number,
                        columns.stream().map(name -> cell(object.path(name))).toList()));
            });
        }

        /// Returns whether the rows are the items of a JSON array. Items are then counted instead of lines, because
        /// several items often share a line. The first column name of a CSV may start with a bracket, too, so an array
        /// whose items are not objects is expected only in a file that is named `.json`.
        private boolean isArray() {
            return ARRAY.matcher(start).lookingAt() || BRACKET.matcher(start).lookingAt() && isNamed("json");
        }

        private boolean isNamed(String endings) {
            return input.toString().toLowerCase(Locale.ROOT).matches(".*\\.(" + endings + ")");
        }

        private interface JsonRows {
            void accept(long number, JsonNode object) throws IOException;
        }

        /// Reads one object after the other from an array or from lines. Bytes that the encoding does not allow are an
        /// error here, because the copy would be valid UTF-8. All values that are not objects are reported together.
        private void read(JsonRows rows) throws IOException {
            var problems = new Problems(this);
            long number = 1;
            try (var in = reader(); var json = Json.parser(in)) {
                if (start.startsWith("\uFEFF")) in.skip(1);
                if (isArray()) json.nextToken(); // skips the bracket
                while (json.nextToken() != null && json.currentToken() != JsonToken.END_ARRAY) {
                    if (!isArray()) number = json.currentTokenLocation().getLineNr();
                    JsonNode object = json.readValueAsTree();
                    if (Json.hasText(object, text -> text.indexOf(INVALID) >= 0)) throw invalid(number);
                    if (object.isObject()) rows.accept(number, object);
                    else problems.add(unusable(number, "not a JSON object"));
                    if (isArray()) number++;
                }
                if (json.nextToken() != null) throw unusable(number, "more text after the end of the array");
            } catch (JsonProcessingException problem) {
                var place = problem.getLocation();
                // only the beginning of Jackson's message is used, because the rest is in Jackson's own terms
                throw unusable(isArray() ? number : place.getLineNr(), "not valid JSON at line " + place.getLineNr()
                        + ", column " + place.getColumnNr() + " ("
                        + problem.getOriginalMessage().split("[:(]")[0].strip() + ")");
            } catch (NumberFormatException _) {
                throw unusable(number, "a number whose exponent is too large");
            }
            problems.refuse();
        }

        /// Returns a JSON value as the text of a cell. Null and a missing value become an empty cell.
        static String text(JsonNode value) {
            if (value.isNull() || value.isMissingNode()) return "";
            // JSON keeps the digits of a number as they were written
            return value.isTextual() || value.isBoolean() ? value.asText() : Json.text(value);
        }

        /// Returns a cell of the copy. Numbers and empty cells have no quotes.
        private static String cell(JsonNode value) {
            var text = text(value);
            return value.isNumber() || text.isEmpty() ? text : quoted(text);
        }

        String name() {
            return name(input);
        }

        private static String name(Path input) {
            return input.toString().equals("-") ? "standard input" : input.toString();
        }

        /// Opens the text. Invalid bytes are replaced and not reported, because only the caller can find out their
        /// line.
        Reader reader() throws IOException {
            return new InputStreamReader(source.get(), charset.newDecoder()
                    .onMalformedInput(CodingErrorAction.REPLACE).onUnmappableCharacter(CodingErrorAction.REPLACE)
                    .replaceWith(String.valueOf(INVALID)));
        }

        /// Describes where a fault is, as `line 7`, in a JSON array as `item 7`, and in a workbook as `Sheet1!C7`.
        ///
        /// @param line 0 if the fault does not belong to a line
        /// @param column the index of a workbook's column; other files ignore it, and row numbers have -1
        String where(long line, int column) {
            if (line == 0) return "all lines";
            if (sheet.isEmpty()) return (isArray() ? "item " : "line ") + line;
            // a name with other characters is quoted, as in a formula
            return (sheet.matches("\\w+") ? sheet : "'" + sheet + "'") + "!"
                    + CellAddress.convertNumToColString(Math.max(column, 0)) + line;
        }

        Faulty unusable(long line, String problem) {
            return unusable(line, 0, problem, "");
        }

        Faulty unusable(long line, int column, String problem, String hint) {
            return new Faulty(this, line, column, problem, hint, Optional.empty());
        }

        /// Returns the beginning of a message about this place, such as `data.csv:7`, or `book.xlsx: Sheet1!C7` for a
        /// workbook.
        String prefix(long line, int column) {
            if (line == 0) return name(); // such as column names, which are in every line of JSON
            boolean isLine = sheet.isEmpty() && !isArray();
            return name() + (isLine ? ":" + line : ": " + where(line, column));
        }

        /// Creates the fault of a line with bytes that are invalid in the encoding. The detected encoding is a guess,
        /// so it is only a hint.
        Faulty invalid(long line) {
            try (var in = source.get()) {
                var guess = UniversalDetector.detectCharset(in);
                if (guess != null && !guess.equals(charset.name()) && Charset.isSupported(guess)) {
                    var repair = new Faulty.Repair("--encoding", Charset.forName(guess));
                    return new Faulty(this, line, 0, "invalid " + charset, "add " + repair.option()
                            + " (a guess), or save the file as UTF-8", Optional.of(repair));
                }
            } catch (IOException _) {
                // the message then suggests no encoding
            }
            return unusable(line, 0, "invalid " + charset,
                    "name the encoding with --encoding, or save the file as UTF-8");
        }

        /// Collects the faults of a file, to report them as one with the first 20 of them and their number. More would
        /// not fit on a screen.
        static final class Problems {
            private static final int SHOWN = 20;

            private final TextFile file;
            private final List<Faulty> shown = new ArrayList<>();
            private long count = 0;

            Problems(TextFile file) {
                this.file = file;
            }

            void add(Faulty fault) {
                if (count++ < SHOWN) shown.add(fault);
            }

            Problems addAll(List<Faulty> faults) {
                faults.forEach(this::add);
                return this;
            }

            /// Throws the faults as one, if there are any. If options repair some of them, the hint consists of these
            /// options; otherwise it is the first hint.
            void refuse() {
                if (count == 1) throw shown.getFirst();
                if (count == 0) return;
                var lines = shown.stream().map(fault -> "\n  " + fault.place + ": " + fault.problem).collect(joining());
                var rest = count > SHOWN ? "\n  … and " + (count - SHOWN) + " more" : "";
                var options = shown.stream().flatMap(fault -> fault.repair.stream()).map(Faulty.Repair::option)
                        .distinct().collect(joining(" "));
                var hint = shown.stream().map(fault -> fault.hint).filter(text -> !text.isEmpty()).findFirst();
                // no line and no column, because each problem has its own place
                throw file.unusable(0, 0, count + " problems" + lines + rest,
                        options.isEmpty() ? hint.orElse("") : "use " + options);
            }
        }

        /// Holds copies of the input in temporary files without a name. Nobody else can open them, and the system
        /// removes them when this process ends, however it ends.
        static final class Copies implements AutoCloseable {
            private final Path input;
            private final List<FileChannel> files = new ArrayList<>();

            Copies(Path input) {
                this.input = input;
            }

            /// Adds a copy and returns how to read it. An error can come from the input or from the copy, so the
            /// message names both.
            IOSupplier<InputStream> add(IOConsumer<OutputStream> content) {
                try {
                    var path = Files.createTempFile("difyexec-", ".copy"); // with permissions for this user only
                    var file = FileChannel.open(path, StandardOpenOption.READ, StandardOpenOption.WRITE);
                    files.add(file); // before anything can fail
                    Files.delete(path); // the open file stays, but has no name
                    content.accept(Channels.newOutputStream(file));
                    return () -> new CopyReader(file);
                } catch (IOException problem) {
                    throw new Unusable("cannot make a copy of " + name(input) + " (" + Text.reason(problem) + ")",
                            "if the input can be read, choose another folder for the copy with "
                                    + "JDK_JAVA_OPTIONS=-Djava.io.tmpdir=DIR");
                }
            }

            @Override
            public void close() {
                for (var file : files) try {
                    file.close();
                } catch (IOException _) {
                    // the system removes the copy when this process ends
                }
            }
        }

        /// Reads a copy from its start. It has a position of its own, because several readers share the channel.
        private static final class CopyReader extends InputStream {
            private final FileChannel file;
            private long position = 0;

            CopyReader(FileChannel file) {
                this.file = file;
            }

            /// Every stream must have this method, but readers use the other one.
            @Override
            public int read() throws IOException {
                var one = new byte[1];
                return read(one) < 0 ? -1 : Byte.toUnsignedInt(one[0]);
            }

            @Override
            public int read(byte[] bytes, int from, int length) throws IOException {
                int read = file.read(ByteBuffer.wrap(bytes, from, length), position);
                position += Math.max(0, read);
                return read;
            }
        }
    }

    /// Reads a worksheet of an Excel workbook. A cell becomes the text that a person sees if that is the same on every
    /// machine, and ISO 8601 or a plain number otherwise.
    static final class Book {
        static final int MAX_ROWS = 1 << 20; // Excel's limit
        /// Matches the values that Excel shows for a formula that fails. The reader returns them as texts.
        private static final Pattern ERROR_VALUE =
                Pattern.compile("#(N/A|NAME\\?|(REF|VALUE|DIV/0|NULL|NUM|SPILL|CALC|FIELD|BLOCKED|CONNECT|UNKNOWN)!)");
        /// Matches how a workbook writes a character that XML does not allow, such as `_x0001_`.
        static final Pattern ESCAPE = Pattern.compile("_x([0-9A-Fa-f]{4})_");
        private static final BigDecimal AFTER_LAST_DAY = BigDecimal.valueOf(2_958_466); // 9999-12-31 is the last
        private static final XMLInputFactory XML = XMLInputFactory.newFactory();
        /// Matches the parts of a number format that are not about digits or dates, which are names, texts, colours and
        /// fillers. It also matches the formats of negative numbers and zero, which follow a semicolon.
        private static final Pattern DECORATION = Pattern.compile(
                "general|standard|\"[^\"]*\"|\\\\.|_.|\\*.|\\[(?![hms]+\\])[^]]*]|;.*", Pattern.CASE_INSENSITIVE);
        /// Matches a format that shows a day, a weekday (`aaa`), a year (`y`, `e` in an era, `bb` in Thailand), an era
        /// (`gg`), or only a month.
        private static final Pattern DAY = Pattern.compile(".*([yd]|aaa|e(?![+-])|bb|gg).*|m+");

        static { // a DTD in a hostile workbook could read files of this machine, or fill the memory
            XML.setProperty(XMLInputFactory.SUPPORT_DTD, false);
        }

        private final TextFile file;
        private final boolean is1904; // whether days are counted from 1904, as old Excel for the Mac does
        private final Map<String, Format> formats = new HashMap<>(); // by format, because a workbook has few of them
        private final List<CellRangeAddress> merged = new ArrayList<>();
        private final List<Faulty> faults = new ArrayList<>();
        private int width = 0;

        /// Describes a number format. `digits` is the least number of digits if the format pads numbers with zeros,
        /// such as 5 if it shows 701 as 00701, and 0 otherwise.
        private record Format(boolean hasDay, boolean hasTime, int digits) {
            static Format of(String format) {
                var places = DECORATION.matcher(format).replaceAll("").toLowerCase(Locale.ROOT);
                return new Format(DAY.matcher(places).matches(), places.matches(".*[hs].*"),
                        places.matches("0+") ? places.length() : 0);
            }

            /// Returns `d` for an East Asian date format, `h` for a time format, or an empty text. A file contains only
            /// the numbers of these formats, not the formats (ECMA-376, part 1, 18.8.30).
            static String eastAsian(Integer number) {
                return switch (number) {
                    case 27, 28, 29, 30, 31, 36, 50, 51, 52, 53, 54, 57, 58 -> "d";
                    case 32, 33, 34, 35, 55, 56 -> "h";
                    case null, default -> "";
                };
            }
        }

        private Book(TextFile file, boolean is1904) {
            this.file = file;
            this.is1904 = is1904;
        }

        /// Copies a worksheet as CSV. Without `--sheet`, this is the first visible one with data. It is not checked for
        /// a cover page if the user has chosen a worksheet or a header row. The workbook is held in memory, because
        /// fastexcel and [#survey] both read it.
        static TextFile copy(TextFile file, Csv.Shape shape) throws IOException {
            var wanted = shape.sheet();
            byte[] zip;
            try (var in = file.source().get()) {
                zip = in.readAllBytes();
            }
            try (var book = open(zip)) {
                var names = book.getSheets().map(Sheet::getName).toList();
                Predicate<Sheet> isWanted = one -> one.getName().equalsIgnoreCase(wanted);
                if (wanted.isEmpty()) isWanted = one -> !widths(one, 1).isEmpty(); // one row with text is enough
                var sheet = book.getSheets().filter(isWanted).findFirst();
                if (sheet.isEmpty()) throw new Unusable(file.name() + ": no worksheet "
                        + (wanted.isEmpty() ? "with data" : Text.quoted(wanted)),
                        "the worksheets are " + Text.printable(String.join(", ", names), 300) + "; choose by --sheet");
                var name = sheet.get().getName();
                var notes = new ArrayList<String>();
                if (names.size() > 1 && wanted.isEmpty())
                    notes.add("reading the worksheet " + Text.quoted(name) + "; --sheet chooses another of "
                            + names.size());
                var named = file.ofSheet(name);
                var reader = new Book(named, book.isDate1904());
                reader.survey(sheet.get(), zip);
                if (wanted.isEmpty() && shape.headerRow() == null) refuseCover(named, sheet.get(), book);
                var copy = named.copied(out -> notes.addAll(reader.read(sheet.get(), out)));
                return copy.with(new TextFile.Extras(reader.width, reader.merged, reader.faults, notes));
            } catch (Unusable problem) {
                throw problem;
            } catch (IOException | RuntimeException | XMLStreamException _) {
                // no cause, because their texts are about zip files, XML and Java
                throw new Unusable(file.name() + ": cannot be read as an Excel workbook (damaged, or another format)",
                        "save it as .xlsx, or export it as CSV");
            }
        }

        /// Opens a workbook with the formats of its cells. A cell that cannot be parsed becomes an error value and does
        /// not end the reading (the second `true`).
        private static ReadableWorkbook open(byte[] zip) throws IOException {
            try {
                return new ReadableWorkbook(new ByteArrayInputStream(zip), new ReadingOptions(true, true));
            } catch (ExcelReaderException _) { // the workbook has no styles, and therefore no formats
                return new ReadableWorkbook(new ByteArrayInputStream(zip), new ReadingOptions(false, true));
            }
        }

        /// Refuses a worksheet that is a cover page. Its first row has one cell, and another worksheet has wider rows.
        private static void refuseCover(TextFile file, Sheet first, ReadableWorkbook book) {
            if (widths(first, 1).getFirst() > 1) return;
            var wider = book.getSheets().filter(one -> width(one) > width(first)).findFirst()
                    .map(one -> new Faulty.Repair("--sheet", one.getName()));
            if (wider.isPresent()) throw new Faulty(file, 1, 0, "a cover page instead of column names",
                    "use " + wider.get().option(), wider);
        }

        /// Returns how many cells the widest of the first 20 rows has. A table is as wide as that near its top.
        private static long width(Sheet sheet) {
            return widths(sheet, 20).stream().max(Comparator.naturalOrder()).orElse(0L);
        }

        /// Returns the number of cells with text in each of the first `most` rows that have text. Returns none for a
        /// hidden worksheet, which the user does not mean.
        private static List<Long> widths(Sheet sheet, int most) {
            if (sheet.getVisibility() != SheetVisibility.VISIBLE) return List.of();
            try (var rows = sheet.openStream()) {
                return rows.map(row -> row.stream().filter(cell -> cell != null && !cell.getText().isBlank()).count())
                        .filter(width -> width > 0).limit(most).toList();
            } catch (IOException problem) {
                throw new UncheckedIOException(problem);
            }
        }

        /// Writes the rows as CSV and returns notes about them. Empty cells at the end of a row are left out, because a
        /// worksheet may have formatted cells far to the right. Hidden rows below the column names are counted.
        private List<String> read(Sheet sheet, Writer out) throws IOException {
            long hidden = 0;
            try (var rows = sheet.openStream()) {
                long number = 0;
                for (var all = rows.iterator(); all.hasNext(); ) {
                    var row = all.next();
                    long at = Math.max(number + 1, row.getRowNum()); // unique, even if the file repeats a number
                    if (at > MAX_ROWS) throw file.unusable(at, "beyond Excel's limit of "
                            + Text.number(MAX_ROWS) + " rows");
                    var cells = new ArrayList<String>();
                    for (var cell : row) cells.add(cell == null ? "" : text(cell, at, cells.size()));
                    // an empty text is quoted, but no less empty
                    while (!cells.isEmpty() && cells.getLast().replace('"', ' ').isBlank()) cells.removeLast();
                    if (cells.isEmpty()) continue;
                    if (width > 0 && row.isHidden()) hidden++;
                    width = Math.max(width, cells.size());
                    TextFile.write(out, at, cells);
                    number = at;
                }
            }
            return hidden == 0 ? List.of() : List.of("including " + Text.count(hidden, "hidden row"));
        }

        /// Returns the cell's text for the copy. Texts are quoted there, and numbers, dates and empty cells are not.
        private String text(Cell cell, long row, int column) {
            var raw = Objects.requireNonNullElse(cell.getRawValue(), "").strip();
            if (cell.getType() == CellType.STRING && cell.getValue() == null)
                return addFault(row, column, "the workbook lacks the text of this cell");
            return switch (cell.getValue()) {
                // fastexcel does not read a number with spaces around it
                case null -> raw.isEmpty() ? "" : number(new BigDecimal(raw), cell);
                case BigDecimal number -> number(number, cell);
                case String text when cell.getType() == CellType.ERROR
                        || cell.getType() == CellType.FORMULA && ERROR_VALUE.matcher(text).matches() ->
                        addFault(row, column, "error value " + text);
                case Object text -> TextFile.quoted(ESCAPE.matcher(text.toString()).replaceAll(escape -> Matcher
                        .quoteReplacement(String.valueOf((char) Integer.parseInt(escape.group(1), 16)))));
            };
        }

        /// Notes a fault, and returns an empty text for the cell.
        private String addFault(long row, int column, String problem) {
            faults.add(file.unusable(row, column, problem, ""));
            return "";
        }

        /// Returns a date or time in ISO 8601, or any other number in the notation of [#plain].
        private String number(BigDecimal number, Cell cell) {
            var code = Objects.requireNonNullElseGet(cell.getDataFormatString(),
                    () -> Format.eastAsian(cell.getDataFormatId()));
            var format = formats.computeIfAbsent(code, Format::of);
            // 1 is a day, so a time format with more is a duration such as 30 h, which stays a number
            boolean isMoment = format.hasDay() || format.hasTime() && number.compareTo(BigDecimal.ONE) < 0;
            boolean isDay = number.signum() >= 0 && number.compareTo(AFTER_LAST_DAY) < 0;
            return isMoment && isDay ? moment(number, format) : plain(number, format.digits());
        }

        /// Returns a date, a time or both. The number counts days, and its fraction is the time of day, rounded to
        /// milliseconds.
        private String moment(BigDecimal number, Format format) {
            // Excel counts a 29 February 1900, which did not exist, so the days before it have another start
            var start = is1904 ? LocalDate.of(1904, 1, 1) : LocalDate.of(1899, 12, number.intValue() < 61 ? 31 : 30);
            var time = start.atStartOfDay().plus(number.movePointRight(3).multiply(BigDecimal.valueOf(86_400))
                    .setScale(0, RoundingMode.HALF_UP).longValue(), ChronoUnit.MILLIS);
            if (!format.hasDay()) return DateTimeFormatter.ISO_LOCAL_TIME.format(time);
            if (!format.hasTime()) return time.toLocalDate().toString();
            return DateTimeFormatter.ISO_LOCAL_DATE_TIME.format(time);
        }

        /// Writes a number without exponent, unless it would have more than 1,000 digits. Whole numbers keep their
        /// digits and are padded with zeros to `digits`. Fractions have the 15 digits that Excel shows, because the
        /// rest is rounding (0.1 + 0.2).
        private static String plain(BigDecimal number, int digits) {
            var shown = number.stripTrailingZeros();
            if (Math.abs((long) shown.scale()) > 1000) return shown.toString();
            if (shown.scale() > 0) shown = shown.round(new MathContext(15)).stripTrailingZeros();
            var text = shown.toPlainString();
            if (shown.scale() > 0 || shown.signum() < 0) return text;
            return "0".repeat(Math.max(0, digits - text.length())) + text;
        }

        /// Finds two things that fastexcel's reader does not report. These are merged cells, and formulas without a
        /// result, which it takes for empty texts. An empty text has the type `str`, but a cell without a result has no
        /// type, like a number.
        private void survey(Sheet sheet, byte[] zip) throws IOException, XMLStreamException {
            var path = ""; // of the worksheet's part, which the relations of the workbook assign to its id
            for (var xml = part(zip, "/xl/_rels/workbook.xml.rels"); xml.hasNext(); xml.next())
                if (xml.isStartElement() && sheet.getId().equals(xml.getAttributeValue(null, "Id")))
                    path = URI.create("/xl/").resolve(xml.getAttributeValue(null, "Target")).getPath();
            var place = ""; // of the current cell, such as C7
            boolean isNumber = false, lacksResult = false;
            for (var xml = part(zip, path); xml.hasNext(); xml.next()) {
                if (xml.isEndElement() && xml.getLocalName().equals("c") && lacksResult) {
                    var cell = new CellAddress(place);
                    addFault(cell.getRow() + 1, cell.getColumn(),
                            "a formula without a result (save the workbook in a spreadsheet program)");
                }
                if (xml.isStartElement()) switch (xml.getLocalName()) {
                    case "c" -> {
                        place = xml.getAttributeValue(null, "r");
                        isNumber = Objects.requireNonNullElse(xml.getAttributeValue(null, "t"), "n").equals("n");
                        lacksResult = false;
                    }
                    case "f" -> lacksResult = isNumber;
                    case "v" -> lacksResult &= xml.getElementText().isBlank();
                    case "mergeCell" -> merged.add(CellRangeAddress.valueOf(xml.getAttributeValue(null, "ref")));
                    default -> {}
                }
            }
        }

        /// Returns this part of the workbook, or an empty one if it is missing. The JDK's zip stream cannot read parts
        /// whose sizes follow the data, as in the workbooks that difyexec exports. Upper and lower case in the names of
        /// parts do not matter in this format.
        private static XMLStreamReader part(byte[] zip, String path) throws IOException, XMLStreamException {
            var parts = new ZipArchiveInputStream(new ByteArrayInputStream(zip));
            for (var entry = parts.getNextEntry(); entry != null; entry = parts.getNextEntry())
                if (path.equalsIgnoreCase("/" + entry.getName())) return XML.createXMLStreamReader(parts);
            return XML.createXMLStreamReader(new StringReader("<none/>"));
        }
    }

    /// Holds the workflow's form, matched with the columns of a CSV. It finds the variable of each column and the value
    /// of each cell.
    ///
    /// @param isUnknown whether the form is unknown, so that all cells are sent as texts
    record Form(List<Variable> variables, Map<String, Variable> byColumn, boolean isUnknown) {
        /// Matches variables with columns: by name, and otherwise by label, which CSVs of Dify's web app have as
        /// titles. A column whose name fits one variable is not taken for the label of another.
        Form(List<Variable> variables, List<String> columns, boolean isUnknown) {
            var byColumn = new LinkedHashMap<String, Variable>();
            for (var variable : variables)
                if (columns.contains(variable.name())) byColumn.put(variable.name(), variable);
                else if (columns.contains(variable.label())) byColumn.putIfAbsent(variable.label(), variable);
            this(List.copyOf(variables), Collections.unmodifiableMap(byColumn), isUnknown);
        }

        /// Returns the form that sends all cells as texts, for `--no-check` and if the form cannot be fetched.
        static Form ofText() {
            return new Form(List.of(), List.of(), true);
        }

        /// Reads the response of `GET /parameters`. Every field but `variable`, `type` and `required` may be missing or
        /// null. If the form itself is missing, all cells are sent as texts.
        static Form of(JsonNode parameters, List<String> columns, Variable.Reading reading) {
            var variables = new ArrayList<Variable>();
            var form = parameters.path("user_input_form");
            var system = parameters.path("system_parameters");
            for (var item : form) for (var entry : item.properties())
                variables.add(Variable.of(entry.getKey(), entry.getValue(), system, reading));
            return new Form(variables, columns, !form.isArray());
        }

        /// Returns the form of a chatflow, which takes its question from this column.
        Form withQuestion(String column, List<String> columns) {
            // required (true), and not even `--allow-empty` sends it empty (false)
            var question = new Variable(column, "", Variable.QUESTION, true, false, Value.Query::new);
            return new Form(Stream.concat(Stream.of(question), variables.stream()).toList(), columns, isUnknown);
        }

        Optional<Variable> variable(String column) {
            return Optional.ofNullable(byColumn.get(column));
        }

        /// Reads a cell of this column. Without a variable, it is a text, which Dify ignores.
        Value value(String column, String cell) {
            return variable(column).map(variable -> variable.value(cell)).orElseGet(() -> new Value.Str(cell));
        }

        /// Reads a cell for its variable. A number of a workbook or of JSON always has a decimal point, even if
        /// `--decimal` sets a comma for texts.
        private Value value(Row row, String column, String cell) {
            boolean isNumber = row.typed().contains(column)
                    && variable(column).filter(variable -> variable.type().equals("number")).isPresent();
            return isNumber ? Variable.number(cell) : value(column, cell);
        }

        /// Returns the values that a row sends, by name. Values that are not sent are absent.
        Map<String, Value> values(Row row) {
            var values = new LinkedHashMap<String, Value>();
            row.inputs().forEach((column, cell) -> {
                var value = value(row, column, cell);
                if (!(value instanceof Value.None))
                    values.put(variable(column).map(Variable::name).orElse(column), value);
            });
            return values;
        }

        /// Returns the cells of a row that the workflow would not accept, shortened for display.
        List<Inspection.Problem> problems(Row row, Csv csv) {
            var problems = new ArrayList<Inspection.Problem>();
            row.inputs().forEach((column, cell) -> {
                if (value(row, column, cell) instanceof Value.Wrong(var why, var option))
                    problems.add(new Inspection.Problem(row.line(), csv.where(row.line(), column), row.id(),
                            csv.input(column).title(), Text.printable(cell, 60), why, option));
            });
            return problems;
        }

        /// Returns the faults of the header. With any of them, nothing is sent. If lenient (`--allow-unmapped`),
        /// columns and variables need not match, but a chatflow still needs its question.
        List<Inspection.Fault> faults(Csv csv, boolean isLenient) {
            var faults = new ArrayList<Inspection.Fault>();
            var option = questionColumn(csv.columns()).map(column -> "--query-column " + Text.shell(column)).orElse("");
            for (var variable : variables) if (variable.isQuestion() && !byColumn.containsValue(variable))
                faults.add(noQuestion(variable.name(), option));
            if (!isLenient && !isUnknown) faults.addAll(mappingFaults(csv));
            return faults;
        }

        /// Creates the fault of a chatflow without a question.
        ///
        /// @param column the column that should contain the question
        /// @param option the option that would choose a likely column, or empty
        private Inspection.Fault noQuestion(String column, String option) {
            if (byColumn.containsKey(column))
                return new Inspection.Fault("column " + Text.quoted(column) + " fills the variable of this name, so it "
                        + "cannot be the chatflow's question; copy it to another column", "");
            return new Inspection.Fault("no column " + Text.quoted(column) + " for the chatflow's question; "
                    + (option.isEmpty() ? "name it with --query-column" : "did you mean " + option + "?"), option);
        }

        /// Returns a fault for each input that would not reach the workflow, with an option that helps. The kinds of
        /// faults come in this order: names of `--map` or `--var` that no variable has, a column that is almost a
        /// variable, a required variable without a column. A column or variable in one fault is left out of the next
        /// ones.
        private List<Inspection.Fault> mappingFaults(Csv csv) {
            var losses = new ArrayList<Inspection.Fault>();
            var columns = unmatched(csv);
            var unfilled = unfilled();
            for (var name : columns.stream().filter(csv::isNamed).toList()) {
                columns.remove(name);
                losses.add(new Inspection.Fault("--map or --var names " + Text.quoted(name)
                        + ", but the workflow has no such variable"
                        + Nearest.hint(name, unfilled.stream().map(Variable::name).toList()), ""));
            }
            var pairs = new HashMap<Variable, String>();
            for (var column : columns) for (var variable : unfilled)
                if (Nearest.isClose(column, variable.name())) pairs.putIfAbsent(variable, column);
            pairs.forEach((variable, column) -> losses.add(new Inspection.Fault("column " + Text.quoted(column)
                    + " matches no variable; did you mean " + map(column, variable) + "?", map(column, variable))));
            for (var variable : unfilled) if (variable.required() && !pairs.containsKey(variable))
                losses.add(withRemedy("no column for the required variable " + Text.quoted(variable.name()), columns,
                        variable));
            // without any other fault, it is one if the workflow gets nothing but the id, although there are other
            // columns or variables
            boolean onlyIdMatches = byColumn.keySet().stream().allMatch(csv::isId);
            if (!losses.isEmpty() || !onlyIdMatches || columns.size() + unfilled.size() == 0) return losses;
            var loss = "no column but the id reaches the workflow";
            return List.of(unfilled.isEmpty() ? new Inspection.Fault(loss + ", which has no variables", "")
                    : withRemedy(loss, columns, unfilled.getFirst()));
        }

        /// Adds the option that helps. If several columns may be meant, it contains a placeholder, with which the
        /// command fails until the user replaces it.
        private static Inspection.Fault withRemedy(String loss, List<String> columns, Variable variable) {
            if (columns.isEmpty())
                return new Inspection.Fault(loss + "; use --var " + Text.shell(variable.name() + "=VALUE"), "");
            // three suggestions fit into a message; a CSV may have hundreds of columns
            var maps = columns.stream().limit(3).map(column -> map(column, variable)).toList();
            return new Inspection.Fault(loss + "; use " + String.join(" or ", maps),
                    maps.size() == 1 ? maps.getFirst() : map("COLUMN", variable));
        }

        private static String map(String column, Variable variable) {
            return "--map " + Text.shell(column + "=" + variable.name());
        }

        /// Returns the column that probably contains a chatflow's question, by the names that people often give it.
        private static Optional<String> questionColumn(List<String> columns) {
            return Stream.of("question", "prompt", "text", "message", "input")
                    .flatMap(word -> columns.stream().filter(word::equalsIgnoreCase)).findFirst()
                    .or(() -> Nearest.of("query", columns));
        }

        /// Returns what the user should know about the columns although the rows can be sent. Each note has at most ten
        /// names, because a CSV may have hundreds of columns.
        List<String> notes(Csv csv) {
            if (isUnknown) return List.of(); // Dify may take any column
            var columns = Text.joinFirst(10, unmatched(csv).stream().map(Text::quoted));
            var missing = Text.joinFirst(10, unfilled().stream().map(Variable::name).map(Text::quoted));
            var notes = new ArrayList<String>();
            if (!columns.isEmpty()) notes.add("Dify ignores columns without a matching variable: " + columns);
            if (!missing.isEmpty()) notes.add("no column for these variables: " + missing);
            var merged = Text.joinFirst(10, csv.merged(byColumn.keySet()).stream());
            if (!merged.isEmpty()) notes.add("merged cells leave cells of these columns empty: " + merged);
            return notes;
        }

        /// Returns the variables without a column. A missing question has a fault of its own, see [#faults].
        private List<Variable> unfilled() {
            return variables.stream()
                    .filter(variable -> !variable.isQuestion() && !byColumn.containsValue(variable)).toList();
        }

        /// Returns the columns that no variable takes. The id column is none of them, and neither is the probable
        /// column of a question that still needs `--query-column`, because another fault suggests that.
        private List<String> unmatched(Csv csv) {
            boolean isQuestionMapped = variables.stream().filter(Variable::isQuestion)
                    .allMatch(byColumn::containsValue);
            var question = isQuestionMapped ? "" : questionColumn(csv.columns()).orElse("");
            return csv.columns().stream().filter(column -> !byColumn.containsKey(column) && !csv.isId(column)
                    && !question.equals(column)).collect(Collectors.toCollection(ArrayList::new));
        }
    }

    /// Describes one variable of the workflow's form.
    ///
    /// @param mayBeEmpty whether a required text may be sent empty (`--allow-empty`)
    /// @param reader     reads a cell; it gets an empty cell only if that is a value of this type
    record Variable(String name, String label, String type, boolean required, boolean mayBeEmpty,
            Function<String, Value> reader) {
        static final String QUESTION = "query";
        private static final Pattern NUMBER = Pattern.compile("[+-]?(\\d+\\.?\\d*|\\.\\d+)"),
                WITH_COMMA = Pattern.compile("[+-]?(\\d{1,3}(\\.\\d{3})+|\\d+)(,\\d+)?");

        /// Holds the rules for reading cells: where files are, whether numbers have a decimal comma, and whether a
        /// required text may be empty.
        record Reading(Folders folders, boolean hasDecimalComma, boolean allowsEmpty) {}

        static Variable of(String type, JsonNode node, JsonNode system, Reading reading) {
            var options = texts(node.path("options"));
            int longest = node.path("max_length").asInt(0); // 0 means no limit
            Function<String, Value> reader = switch (type) {
                case "text-input", "paragraph" -> cell -> text(cell, longest);
                case "select" -> cell -> select(cell, options);
                case "number" -> reading.hasDecimalComma() ? Variable::numberWithComma : Variable::number;
                case "checkbox" -> Variable::checkbox;
                case "json_object" -> Variable::object;
                case "file", "file-list" ->
                    new FileInput(type.equals("file-list"), reading.folders(), node, system)::read;
                // Dify's API fails if it gets a value for `external_data_tool`, and other types are not known
                default -> _ -> new Value.Wrong("must be empty: Dify's API accepts no value for type " + type);
            };
            return new Variable(node.path("variable").asText(), node.path("label").asText(""), type,
                    node.path("required").asBoolean(), reading.allowsEmpty(), reader);
        }

        private static List<String> texts(JsonNode array) {
            return array.valueStream().map(item -> item.isTextual() ? item.asText() : item.toString()).toList();
        }

        boolean isQuestion() {
            return type.equals(QUESTION);
        }

        /// Returns whether the variable takes text. For such a variable, an empty cell is an empty text. For any other
        /// variable, it means that there is no value.
        boolean isText() {
            return type.equals("text-input") || type.equals("paragraph");
        }

        /// Reads a cell. An empty cell is sent only to a text; for other types, Dify requires that it is left out.
        /// Spaces are not an empty cell for a select, because its value must equal a choice exactly, and `[]` and `;`
        /// are an empty list. Dify accepts an empty text for a required variable, but it is more often a mistake, as in
        /// a row of totals.
        Value value(String cell) {
            boolean isEmpty = switch (type) {
                case "select" -> cell.isEmpty();
                case "file-list" -> cell.replaceAll("[;\\[\\]]", "").isBlank();
                default -> cell.isBlank();
            };
            boolean isSent = !isEmpty || isText() && (!required || mayBeEmpty);
            if (isSent) return reader.apply(cell);
            if (!required) return new Value.None();
            return new Value.Wrong(isText() ? "is required (--allow-empty sends it empty)" : "is required");
        }

        private static Value text(String cell, int longest) {
            int length = cell.codePointCount(0, cell.length()); // Dify counts code points, too
            return longest == 0 || length <= longest ? new Value.Str(cell)
                    : new Value.Wrong("has " + Text.count(length, "character") + "; the limit is " + longest);
        }

        /// Reads a choice, which must be exactly one of the options, as Dify requires.
        private static Value select(String cell, List<String> options) {
            if (options.contains(cell)) return new Value.Str(cell);
            return new Value.Wrong("must be one of " + Text.joinFirst(20, options.stream().map(Text::quoted))
                    + Nearest.hint(cell, options));
        }

        /// Reads plain decimal notation. Dify also takes exponents and underscores, but they are refused, because a
        /// cell such as `1.5e3` or `1_000` is more often an id or a mistake.
        static Value number(String cell) {
            var text = cell.strip();
            if (NUMBER.matcher(text).matches()) return new Value.Raw(new BigDecimal(text).toPlainString());
            return new Value.Wrong("must be a number such as 12, -0.5 or 1234567.89",
                    hasDecimalComma(text) ? "--decimal ," : "");
        }

        static boolean hasDecimalComma(String cell) {
            return WITH_COMMA.matcher(cell.strip()).matches();
        }

        /// Returns whether the cell is a number both with a decimal point and with a decimal comma, such as `1.234`.
        static boolean isAmbiguous(String cell) {
            return cell.indexOf('.') >= 0 && hasDecimalComma(cell) && NUMBER.matcher(cell.strip()).matches();
        }

        /// Returns a number with a decimal point, such as `1234.56` for `1.234,56`. Other texts are returned unchanged.
        static String withPoint(String cell) {
            return hasDecimalComma(cell) ? cell.replace(".", "").replace(',', '.') : cell;
        }

        private static Value numberWithComma(String cell) {
            return hasDecimalComma(cell) ? number(withPoint(cell))
                    : new Value.Wrong("must be a number such as 12, -0,5 or 1.234,56");
        }

        /// Reads a checkbox. These are the words that Dify knows; it passes on any other text unchanged. They become
        /// JSON booleans, because Dify 1.9 takes nothing else.
        private static Value checkbox(String cell) {
            return switch (cell.strip().toLowerCase(Locale.ROOT)) {
                case "true", "yes", "1", "on" -> new Value.Raw("true");
                case "false", "no", "0", "off" -> new Value.Raw("false");
                default -> new Value.Wrong("must be true, false, yes, no, 1, 0, on or off");
            };
        }

        /// Reads any JSON object. Dify checks whether it fits the variable's schema.
        private static Value object(String cell) {
            return Json.parse(cell).isObject() ? new Value.Raw(cell.strip())
                    : new Value.Wrong("must be a JSON object such as {\"name\": \"value\"}");
        }

        /// Holds the folder that an `@path` is relative to, and the folders that it must not leave after links are
        /// followed.
        record Folders(Path base, List<Path> within) {
            /// Returns the folder of the CSV, or the current folder if the CSV comes from a pipe, and the folder of
            /// `--files`.
            ///
            /// @param more the folder of `--files`, or null
            static Folders of(Path csv, Path more) {
                var base = Files.isRegularFile(csv) ? csv.toAbsolutePath().getParent() : Path.of("").toAbsolutePath();
                try {
                    var own = base.toRealPath();
                    return new Folders(base, more == null ? List.of(own) : List.of(own, more.toRealPath()));
                } catch (IOException problem) {
                    throw new Unusable(base + ": " + Text.reason(problem));
                }
            }
        }

        /// Reads a file that is given as a URL or as `@path`, or a list of files with `;` between them.
        ///
        /// @param rules  the variable in the form, with the types and the number of files that it takes
        /// @param system the server's limits, in MB
        record FileInput(boolean isList, Folders folders, JsonNode rules, JsonNode system) {
            /// Holds the kinds of files as Dify recognizes them by their endings. All other files are `custom`.
            private static final Map<String, List<String>> ENDINGS = Map.of(
                    "image", List.of("jpg", "jpeg", "png", "webp", "gif", "svg"),
                    "audio", List.of("mp3", "m4a", "wav", "amr", "mpga"),
                    "video", List.of("mp4", "mov", "mpeg", "webm"),
                    "document", List.of("txt", "markdown", "md", "mdx", "pdf", "html", "htm", "xlsx", "xls", "vtt",
                            "properties", "doc", "docx", "csv", "eml", "msg", "pptx", "ppt", "xml", "epub"));
            /// Matches the delimiter of a list. A `;` that no file follows is a part of a URL.
            private static final Pattern SECOND_FILE = Pattern.compile(";\\s*(@|https?://)");
            private static final String LOCAL = "local_file", REMOTE = "remote_url";

            /// Reads a cell. A list may be a JSON array, because a URL may contain `;`. If any of its files is wrong,
            /// so is the whole cell.
            Value read(String cell) {
                if (!isList && SECOND_FILE.matcher(cell).find())
                    return new Value.Wrong("takes one file, but the cell has several");
                if (!isList) return one(cell.strip());
                var array = Json.parse(cell);
                var parts = array.isArray() ? texts(array) : List.of(cell.split(";"));
                var values = parts.stream().map(String::strip).filter(part -> !part.isEmpty()).map(this::one).toList();
                for (var value : values) if (value instanceof Value.Wrong) return value;
                int own = rules.path("max_length").asInt(0);
                // a variable without a limit of its own has the server's, which is 10 unless an operator changed it
                int most = own > 0 ? own : system.path("workflow_file_upload_limit").asInt(10);
                if (values.size() <= most) return new Value.Several(values);
                return new Value.Wrong("has " + Text.count(values.size(), "file") + "; the limit is " + most);
            }

            private Value one(String part) {
                if (!part.startsWith("@"))
                    return takes(REMOTE) ? remote(part) : new Value.Wrong("takes an uploaded file (@path), not a URL");
                return takes(LOCAL) ? local(part.substring(1))
                        : new Value.Wrong("takes a URL (https://…), not an uploaded file");
            }

            /// Returns whether the variable takes files in this way. A form that lists no way allows all of them.
            private boolean takes(String method) {
                var methods = texts(rules.path("allowed_file_upload_methods"));
                return methods.isEmpty() || methods.contains(method);
            }

            /// Reads a URL. Spaces are encoded, because URLs in spreadsheets often have them.
            private Value remote(String part) {
                try {
                    var address = new URI(part.replace(" ", "%20"));
                    var ending = ending(Objects.requireNonNullElse(address.getPath(), ""));
                    var kinds = texts(rules.path("allowed_file_types"));
                    // without an ending, only Dify can find out the kind, by a request to the URL
                    var kind = ending.isEmpty() && !kinds.isEmpty() ? kinds.getFirst() : kind(ending);
                    if (address.getHost() != null && String.valueOf(address.getScheme()).matches("https?"))
                        return wrongKind(kind, ending)
                                .orElseGet(() -> Value.file(kind, REMOTE, "url", address.toString()));
                } catch (URISyntaxException _) {
                    // reported below
                }
                return new Value.Wrong("must be a URL (https://…)" + (takes(LOCAL) ? " or @path" : ""));
            }

            /// Reads an `@path`, whose file is uploaded later. A file that Dify would refuse is refused now, before any
            /// row is sent.
            private Value local(String name) {
                try {
                    var path = folders.base().resolve(name);
                    if (!Files.isRegularFile(path)) return new Value.Wrong("names a file that does not exist: " + path);
                    var file = path.toRealPath(); // a link must not lead out of the folders
                    if (folders.within().stream().noneMatch(file::startsWith))
                        return new Value.Wrong("names a file outside the CSV's folder: " + file
                                + " (allow another folder with --files DIR)");
                    if (!Files.isReadable(path)) return new Value.Wrong("names a file that cannot be read: " + path);
                    var kind = kind(ending(name));
                    // Dify has limits of their own for these kinds, in MB
                    var limit = List.of("image", "audio", "video").contains(kind) ? kind + "_file_size_limit"
                            : "file_size_limit";
                    long most = system.path(limit).asLong(0), size = Files.size(file);
                    if (most > 0 && size > most << 20) return new Value.Wrong("names a file of " + (size >> 20)
                            + " MB; the limit is " + most + " MB");
                    return wrongKind(kind, ending(name))
                            .orElseGet(() -> new Value.Local(kind, path.getFileName().toString(), file));
                } catch (InvalidPathException | IOException problem) {
                    return new Value.Wrong("names a file that cannot be read: " + Text.reason(problem));
                }
            }

            /// Returns a fault if the variable does not take files of this kind, by Dify's rules. The kind `custom` in
            /// the form stands for the endings that the form lists.
            private Optional<Value> wrongKind(String kind, String ending) {
                var kinds = texts(rules.path("allowed_file_types"));
                var custom = kinds.contains("custom") ? endings() : List.<String>of();
                if (kinds.isEmpty() || kinds.contains(kind) && !kind.equals("custom") || custom.contains(ending))
                    return Optional.empty();
                return Optional.of(new Value.Wrong("takes files of type " + String.join(", ", kinds)
                        + inBrackets(String.join(", ", custom)) + ", not " + kind
                        + inBrackets(ending.isEmpty() ? "" : "." + ending)));
            }

            private List<String> endings() {
                return texts(rules.path("allowed_file_extensions")).stream()
                        .map(one -> one.replaceFirst("^\\.", "").toLowerCase(Locale.ROOT)).toList();
            }

            private static String inBrackets(String text) {
                return text.isEmpty() ? "" : " (" + text + ")";
            }

            private static String kind(String ending) {
                return ENDINGS.entrySet().stream().filter(kind -> kind.getValue().contains(ending))
                        .map(Map.Entry::getKey).findFirst().orElse("custom");
            }

            /// Returns the part after the last dot, or an empty text if only a folder's name has a dot.
            private static String ending(String name) {
                int dot = name.lastIndexOf('.');
                return dot <= name.lastIndexOf('/') ? "" : name.substring(dot + 1).toLowerCase(Locale.ROOT);
            }
        }
    }

    /// Holds the value of a cell in the form in which the workflow takes it.
    sealed interface Value {
        /// Holds a text, which is sent as a JSON string.
        record Str(String text) implements Value {}

        /// Holds a chatflow's question, which is sent beside the inputs.
        record Query(String text) implements Value {}

        /// Holds JSON that is sent as is. This is a number, whose digits are all kept, a boolean, an object, or a file
        /// that Dify has or can fetch.
        record Raw(String json) implements Value {}

        /// Holds a file on this machine that must be uploaded first. `name` is its name in the cell. `file` is its real
        /// path, so that the upload notices a link that was changed after the check.
        record Local(String kind, String name, Path file) implements Value {
            Value uploaded(String id) {
                return Value.file(kind, "local_file", "upload_file_id", id);
            }
        }

        /// Holds a list of files.
        record Several(List<Value> files) implements Value {}

        /// Stands for an empty cell that is left out of the request.
        record None() implements Value {}

        /// Stands for a cell that the workflow would not accept. `why` continues a sentence that starts with the
        /// variable. `option` is an option with which the cell would be accepted, or empty.
        record Wrong(String why, String option) implements Value {
            Wrong(String why) {
                this(why, "");
            }
        }

        /// Creates a file as Dify's API describes it.
        static Value file(String kind, String method, String field, String value) {
            return new Raw(Json.text(object("type", kind, "transfer_method", method, field, value)));
        }

        /// Returns the files that must be uploaded before the value can be sent.
        default Stream<Local> locals() {
            return switch (this) {
                case Local local -> Stream.of(local);
                case Several(var files) -> files.stream().flatMap(Value::locals);
                case Str _, Query _, Raw _, None _, Wrong _ -> Stream.empty();
            };
        }

        /// Returns the value with the ids of its uploaded files instead of the files.
        default Value uploaded(Map<Local, String> ids) {
            return switch (this) {
                case Local local -> local.uploaded(ids.get(local));
                case Several(var files) -> new Several(files.stream().map(file -> file.uploaded(ids)).toList());
                case Str _, Query _, Raw _, None _, Wrong _ -> this;
            };
        }
    }

    /// Holds what a check of the input found.
    ///
    /// @param faults   sentences about the file and its header
    /// @param problems cells and rows that cannot be used
    /// @param options  the options that repair faults and problems, as they are typed
    record Inspection(long rows, List<String> faults, List<String> notes, List<Profile> columns,
            List<Problem> problems, List<String> options) {
        /// Holds a sentence about a fault, and the option that repairs it or an empty text.
        record Fault(String text, String option) {}

        /// Holds a cell that the workflow would not accept, or a row that cannot be used, which has neither `id` nor
        /// `column` here. `option` is an option that repairs it, or empty.
        record Problem(long line, String place, String id, String column, String value, String message,
                String option) {
            /// Returns this problem as an example of so many cells that the option would repair.
            Problem asOneOf(int count) {
                var text = message + " (" + Text.count(count, "such cell") + "; " + option + " reads them)";
                return new Problem(line, place, id, column, value, text, option);
            }

            /// Returns the problem as a sentence, such as
            /// `line 7, id r-6: tone = "x" must be one of "formal", "casual"`.
            /// Long texts are cut, to keep a problem on a few lines of a terminal.
            String text() {
                if (column.isEmpty()) return place + ": " + Text.printable(message, 300);
                return place + ", id " + Text.id(id) + ": " + Text.printable(column, 40)
                        + (value.isBlank() ? "" : " = " + Text.quoted(value)) + " " + Text.printable(message, 300);
            }
        }

        /// Summarizes a column. `longest` is in Unicode code points.
        record Profile(String column, String variable, String type, boolean required, long filled, int longest,
                String example) {}

        boolean isFine() {
            return faults.isEmpty() && problems.isEmpty();
        }

        /// Checks rows against the form, one after the other. Nothing is sent.
        static final class Inspector implements Consumer<Row> {
            private final Csv csv;
            private final Form form;
            private final List<Profiler> profilers;
            private final List<Inspection.Problem> problems = new ArrayList<>();
            private long rows = 0;

            Inspector(Csv csv, Form form) {
                this.csv = csv;
                this.form = form;
                profilers = csv.columns().stream().map(Profiler::new).toList();
            }

            @Override
            public void accept(Row row) {
                rows++;
                for (var profiler : profilers) profiler.accept(row);
                problems.addAll(form.problems(row, csv));
            }

            /// Adds a row that cannot be used.
            void add(Faulty fault) {
                var remedy = fault.hint.isEmpty() ? "" : "; " + fault.hint;
                // no id, column or value, because the row could not be read
                problems.add(new Inspection.Problem(fault.line, fault.place, "", "", "", fault.problem + remedy, ""));
            }

            /// Returns the problems to show. If an option repairs all faulty cells of a column, only the first one of
            /// them is shown.
            private List<Inspection.Problem> summary() {
                var columns = problems.stream().collect(Collectors.groupingBy(Inspection.Problem::column));
                columns.values().removeIf(cells -> cells.stream().anyMatch(cell -> cell.option().isEmpty()));
                columns.remove(""); // rows, which belong to no column
                columns.replaceAll((_, cells) -> List.of(cells.getFirst().asOneOf(cells.size())));
                var shown = new LinkedHashSet<Inspection.Problem>();
                for (var problem : problems)
                    shown.addAll(columns.getOrDefault(problem.column(), List.of(problem)));
                return List.copyOf(shown);
            }

            /// Returns what was found: faults of the file before those of the form, and each option only once.
            Inspection inspection(boolean isLenient) {
                var ofFile = csv.faults().stream().map(fault -> new Fault(fault.what() + "; " + fault.hint,
                        fault.repair.map(Faulty.Repair::option).orElse("")));
                var faults = Stream.concat(ofFile, form.faults(csv, isLenient).stream()).toList();
                var options = Stream.concat(faults.stream().map(Fault::option),
                        problems.stream().map(Problem::option)).filter(option -> !option.isEmpty()).distinct();
                var notes = Stream.of(csv.notes().stream(), form.notes(csv).stream(),
                        profilers.stream().flatMap(Profiler::note)).flatMap(all -> all).toList();
                return new Inspection(rows, faults.stream().map(Fault::text).toList(), notes,
                        profilers.stream().map(Profiler::profile).toList(), summary(), options.toList());
            }

            /// Collects the figures of one column while the rows are read.
            private final class Profiler {
                private final String column;
                private final Optional<Variable> variable;
                private String example = "", ambiguous = ""; // the first cell of each kind
                private long filled = 0, ambiguousCells = 0;
                private int longest = 0;

                Profiler(String column) {
                    this.column = column;
                    variable = form.variable(column);
                }

                void accept(Row row) {
                    var cell = row.inputs().get(column);
                    if (cell.isBlank()) return;
                    if (filled++ == 0) example = Text.printable(cell, 24); // it is shown in a table of 80 columns
                    longest = Math.max(longest, cell.codePointCount(0, cell.length()));
                    // a number of a workbook or of JSON cannot be misread
                    boolean isText = variable.filter(one -> one.type().equals("number")).isPresent()
                            && !row.typed().contains(column);
                    if (isText && Variable.isAmbiguous(cell) && ambiguousCells++ == 0) ambiguous = cell.strip();
                }

                /// Warns if `--decimal ,` is set or suggested although it would read a cell such as `1.234` as 1234.
                Stream<String> note() {
                    var title = csv.input(column).title();
                    boolean isSuggested = problems.stream().anyMatch(problem -> problem.column().equals(title)
                            && problem.option().equals("--decimal ,"));
                    if (ambiguousCells == 0 || !isSuggested && !csv.shape().hasDecimalComma()) return Stream.empty();
                    return Stream.of("a decimal comma turns " + ambiguous + " in the column " + Text.quoted(title)
                            + " into " + new BigDecimal(Variable.withPoint(ambiguous)).toPlainString() + " ("
                            + Text.count(ambiguousCells, "such cell") + ")");
                }

                Inspection.Profile profile() {
                    return new Inspection.Profile(csv.input(column).title(), variable.map(Variable::name).orElse(""),
                            variable.map(Variable::type).orElse(""), variable.filter(Variable::required).isPresent(),
                            filled, longest, example);
                }
            }
        }
    }

    // ── Rules ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Decides what a response means for its row. Only for a failed upload, [Sender] has decided before whether the row
    /// is at fault.
    record Judge(Backoff backoff, RetryRuns failedRuns, Access access) {
        /// Matches errors of failed runs that may not come back when the row is sent again. Dify passes on the errors
        /// of models and nodes, so the list cannot be complete. Dify's own text is `Reached maximum retries` of an HTTP
        /// node (1.9 and 1.14, `run_streaming_failed_429.json`).
        private static final Pattern TRANSIENT = Pattern.compile("rate.?limit|overload|unavailable|"
                + "connect(ion)? ?error|connection (refused|reset|aborted|timed)|time[d -]*out|reached maximum retries|"
                + "too many requests|\\b(429|502|503|504|529)\\b|try again", Pattern.CASE_INSENSITIVE);
        /// Dify 1.16 reports these two errors for runs that waited for a person (`human.json` and
        /// `chatflow_paused_blocking.json`). It also reports the second one for a run that somebody stopped
        /// (`stop_race.json`), so only a run that has paused shows which of the two happened.
        private static final String CLOSED = "Aborted: Client response stream closed",
                TASK = "Aborted: App task was stopped";
        private static final String AFTER_FORM =
                "Dify 1.16.0 can report this after a form was submitted; open the run in Dify to see how far it got";
        /// Matches errors in a stream that reject the row's inputs; such events have no code. They are recorded in
        /// `inputs_streaming.json`, `inputs_more_streaming.json` and `chatflow_streaming_refused.json` of 1.9 to 1.16,
        /// and the last text in `odd_graphs.json` of 1.14 and 1.16. Here, `Reached maximum retries` is about the URL of
        /// a file.
        private static final Pattern BAD_ROW = Pattern.compile("in input form|input form must|"
                + "transfer_method is required|query is required|is not a valid FileTransferMethod|"
                + "No matching enum found|Invalid (upload file|file url|input type)|Detected file type|"
                + "File validation failed|Reached maximum retries|expected value type|does not match schema|"
                + "this statement should be unreachable");
        /// Matches errors that mean the code `provider_not_initialize`, for streams that report them without a code. No
        /// recording contains these texts, because the recorded servers have a model.
        private static final Pattern NO_MODEL = Pattern.compile(
                "credentials is not initialized|No valid model provider credentials");
        /// Matches any code of a 400, except the code of the model's own errors, because their messages may contain any
        /// text.
        private static final String OTHER_CODE = "400 (?!completion_request_error:)[^:]*: ";
        /// Lists refusals that stop the batch, because every other row would be refused, too. A pattern matches the
        /// beginning of `status code: message`, and the first match counts, so general patterns come last. Dify's
        /// API sends a code with 403 and 404. Without one, they come from a firewall, another server or a wrong path.
        /// The texts get Dify's message (`%1$s`), the URL, the status, advice about the URL and the target of a
        /// redirection. A message about a malformed request quotes the request, so it is not repeated.
        ///
        /// The recordings contain drafts in `publish_again.json`, keys in `keys.json` and `keys_changed.json`,
        /// malformed requests in `bodies.json` and unknown nodes in `odd_graphs.json`. They do not contain the quotas,
        /// which only Dify's Cloud has.
        private static final List<Refusal> STOPS = List.of(
                stop("3\\d\\d ", "%2$s redirects to %5$s",
                        "set DIFY_API_BASE_URL to the final address; it usually ends in /v1"),
                stop("400 not_(workflow|chat)_app:", "the API key belongs to another kind of app",
                        "use the key of a workflow app or a chatflow"),
                stop("400 (provider_not_initialize|model_currently_not_support):",
                        "the workflow's model is not set up (%1$s)", "check the model provider in Dify"),
                stop("400 provider_quota_exceeded:", "the model provider's credit is used up (%1$s)",
                        "top it up, then run the same command again"),
                stop("400 bad_request: (Invalid workflow_id|Cannot use draft)|(404|410) [^:]*: Workflow not found",
                        "DIFY_WORKFLOW_ID is not a published version of this app (%1$s)",
                        "leave it empty to run the version published now"),
                setting(OTHER_CODE + "App ID is required", "DIFY_APP_ID is missing: this key has several apps (%1$s)",
                        "set DIFY_APP_ID to the id of your app, as in its URL in Dify"),
                setting("403 [^:]*:.*not allowed to access this app",
                        "DIFY_APP_ID is not the id of an app of this key (403: %1$s)",
                        "set it to the id of your app, as in its URL in Dify, or use a key of that app"),
                stop("400 bad_request:", "Dify could not read the request: %1$s", ""),
                stop("400 app_unavailable:|" + OTHER_CODE + "Workflow not published",
                        "this app has no published version", "publish the workflow in Dify"),
                stop(OTHER_CODE + "No class mapping found",
                        "this version of Dify does not support one of the workflow's nodes (%1$s)",
                        "update Dify, or replace the node"),
                stop(OTHER_CODE + "(Arg user must|Input payload validation|"
                                + "(?!queue listening stopped).*validation error)",
                        "Dify rejected the request as malformed (400)", "check for a newer version of difyexec"),
                stop("401 ", "Dify rejected the API key (401: %1$s)",
                        "check DIFY_API_KEY and that it belongs to the app at %2$s"),
                stop("403 workflow_version_execution_not_allowed:",
                        "the workspace's plan does not allow pinned versions (403: %1$s)", "leave "
                                + "DIFY_WORKFLOW_ID empty to run the version published now, or change the plan"),
                stop("403 [^:]+:", "Dify denied access (403: %1$s)",
                        "enable the app's API in Dify, or ask the workspace's owner"),
                stop("404 (?!:)[^:]*:", "Dify responded with 404 (%1$s)", "%4$s"),
                stop("(404|405|410|415|426) ", "%2$s is not Dify's API (HTTP %3$s: %1$s)", "%4$s"),
                stop("407 ", "the proxy requires a user and a password (407)",
                        "put them into HTTPS_PROXY, http://user:password@host:port"),
                stop("429 rate_limit_error:", "the plan's quota of runs is used up (%1$s)",
                        "run the same command again on the next day or in the next period"));

        /// Holds a refusal that stops the batch, with the texts for the user.
        private record Refusal(Pattern answer, Exit exit, String what, String hint) {}

        private static Refusal stop(String answer, String what, String hint) {
            return new Refusal(Pattern.compile(answer, Pattern.DOTALL), Exit.STOPPED, what, hint);
        }

        /// Creates a refusal that a wrong setting causes. If no run has started yet, the exit code is 2, as it is for
        /// settings that difyexec itself rejects.
        private static Refusal setting(String answer, String what, String hint) {
            return new Refusal(Pattern.compile(answer, Pattern.DOTALL), Exit.UNUSABLE, what, hint);
        }

        /// Judges the response to an attempt.
        Verdict verdict(Attempt attempt, Response response) {
            return switch (response) {
                case Response.Ran ran when isUnconfirmed(ran) -> unconfirmed(words(ran));
                case Response.Ran ran -> ran(attempt, ran);
                // an error after the run's first event does not show that the run itself failed
                case Response.Refused refused when refused.inStream() && refused.run().isPresent() ->
                        unconfirmed(message(refused));
                case Response.Refused refused -> refused(attempt, refused);
                case Response.Cut(_, var symptom, var why) -> new Verdict.LookUp(symptom, why);
                // the run is paid for, and another one would be as large; a later session may have more memory
                case Response.Unreadable(_, var why) -> new Outcome(RowStatus.UNKNOWN, why);
                // shut out (true), because look-ups and stops cannot reach the server either
                case Response.NotSent(var why, var hint) when !hint.isEmpty() ->
                        new Verdict.StopBatch(Stop.early("cannot connect to " + access + ": " + why, hint), true);
                // the shortest wait, because [Health] spaces the requests while the server is down
                case Response.NotSent(var why, _) -> new Verdict.Unreached(backoff.delay(0), why);
                case Response.NotUploaded(var why, var mayPass, var retryAfter) -> mayPass
                        ? again(attempt, why, retryAfter) : Outcome.failed(why);
            };
        }

        /// Judges a run that was looked up. Unlike a response's `stopped`, that of the stored run is final. If the
        /// worker was shut down during the run (Dify 1.16), the row is not at fault and is sent again, unless the user
        /// wants no failed run to be repeated.
        Verdict afterLook(Attempt attempt, Response.Ran ran) {
            if (ran.status() != Response.RunStatus.STOPPED) return ran(attempt, ran);
            // empty: a run has no `Retry-After`
            return ran.error().contains("worker is shutting down") && failedRuns != RetryRuns.NEVER
                    ? again(attempt, ran.error(), Optional.empty()) : Outcome.failed(words(ran));
        }

        /// Returns whether a failure must be looked up before it counts. Dify may have made it up, or the row would be
        /// sent again, which costs again. A failure that may pass is looked up even with `never`, because a later
        /// session may send the row again. Any other failure ends its row, so a look-up would change nothing.
        private boolean isUnconfirmed(Response.Ran ran) {
            return ran.status() == Response.RunStatus.FAILED
                    && (ran.isBare() || mayPass(ran.error()) || isWorthAnother(ran.error()));
        }

        private static Verdict unconfirmed(String words) {
            return new Verdict.LookUp(Symptom.UNCONFIRMED, "reported as failed: " + words);
        }

        /// Judges a failure that the stored run confirms. If a stream reported it as an error, that error may concern
        /// the whole batch, such as a model that is not set up. The stored run decides if the error does not.
        Verdict confirmed(Attempt attempt, Response initial, Response.Ran ran) {
            var verdict = initial instanceof Response.Refused error ? refused(attempt, error) : afterLook(attempt, ran);
            return verdict instanceof Verdict.LookUp ? afterLook(attempt, ran) : verdict;
        }

        /// Judges a failure that Dify has no record of. The run never took place, so the error's text decides. An error
        /// that a stream made up is treated like a rejection, and counts only if its text is known. If Dify 1.16 gave
        /// it the id of a real run, that run may still be active, whatever the text is.
        Verdict notStored(Attempt attempt, Response reported) {
            if (reported instanceof Response.Refused error) return refused(attempt, error);
            var ran = (Response.Ran) reported;
            if (attempt.mode() != Mode.STREAMING || !ran.isBare()) return ran(attempt, ran);
            // as Dify 1.14 reports the same rejection, with status 500 and without a code
            var verdict = refused(attempt, Response.Refused.event(500, "", words(ran), Optional.empty()));
            // no run has this id and the fault may pass, so the row is sent again without another look-up; with
            // `never`, the attempt is looked up as after an unknown text
            boolean isRetried = failedRuns != RetryRuns.NEVER && mayPass(ran.error()) && ran.ref().isMadeUp();
            return verdict instanceof Verdict.LookUp && isRetried ? ran(attempt, ran) : verdict;
        }

        /// Judges a run by its status. A response's `stopped` may be a time-out of Dify's listener, whose run can still
        /// succeed (1.9 and 1.14, `limits.json`), so it is looked up.
        private Verdict ran(Attempt attempt, Response.Ran ran) {
            return switch (ran.status()) {
                case SUCCEEDED -> Outcome.SUCCEEDED;
                case PARTIAL -> Outcome.PARTIAL;
                case PAUSED -> Outcome.PAUSED;
                case STOPPED -> new Verdict.LookUp(Symptom.STOPPED, "the run was stopped: " + ran.error());
                case RUNNING -> new Verdict.LookUp(Symptom.CUT, "Dify responded before the run had finished");
                // empty: a run has no `Retry-After`
                case FAILED -> isWorthAnother(ran.error()) ? again(attempt, ran.error(), Optional.empty())
                        : Outcome.failed(words(ran));
            };
        }

        /// Returns the error of a run, with an explanation where Dify's own text would mislead.
        private static String words(Response.Ran ran) {
            var error = ran.error();
            if (error.isEmpty() && ran.status() == Response.RunStatus.STOPPED) return "stopped on the server";
            if (error.isEmpty()) return "the run failed and gave no reason";
            // the engine reports the first text, its listener reports the second one (1.9 to 1.16, limits.json)
            if (error.startsWith("Aborted: Maximum execution time")
                    || error.startsWith("Aborted: App execution exceeded"))
                return error + " (the server's own limit, which --timeout cannot raise)";
            if (error.startsWith(CLOSED)) return error + " (" + AFTER_FORM + ")";
            if (error.startsWith(TASK)) return error + " (someone stopped it in Dify, or " + AFTER_FORM + ")";
            return error;
        }

        /// Returns whether a run ended because its form was submitted. Such a row is not retried automatically, because
        /// the person would be asked again, and the run would cost again.
        static boolean isAfterForm(String error, boolean wasPaused) {
            return error.startsWith(CLOSED) || wasPaused && error.startsWith(TASK);
        }

        private boolean isWorthAnother(String error) {
            return failedRuns == RetryRuns.ALWAYS || failedRuns == RetryRuns.TRANSIENT && mayPass(error);
        }

        /// Returns whether another attempt may succeed. A text that begins with `Aborted:` is about a stop or one of
        /// Dify's own limits, so it does not pass, whatever numbers it contains.
        private static boolean mayPass(String error) {
            return !error.startsWith("Aborted:") && TRANSIENT.matcher(error).find();
        }

        /// Judges a refusal by its status, code and message. The status is not enough, because Dify responds with 400
        /// to bad rows, to settings that are wrong for all rows, and after faults of its own. The order of the checks
        /// matters, because more than one can match.
        private Verdict refused(Attempt attempt, Response.Refused response) {
            if (response.isTooMany()) return throttled(attempt, response);
            if (response.inStream() && response.code().isEmpty()) return refusedInWords(attempt, response);
            int status = response.status();
            var stop = stop(response);
            // with 401 and 403, Dify also rejects look-ups and stops, so the batch is shut out
            if (stop.isPresent()) return new Verdict.StopBatch(stop.get(), status == 401 || status == 403);
            // this is an error of the model, outside of any node
            if (status == 400 && response.code().equals("completion_request_error"))
                return again(attempt, response.message(), response.retryAfter());
            // the server's listener ended without a result, but the run may have a result
            if (status == 400 && response.message().startsWith("queue listening stopped"))
                return new Verdict.LookUp(Symptom.SERVER_ERROR, message(response));
            if (status == 429) return throttled(attempt, response);
            // below 300: a success whose content is not Dify's
            if (response.isTransient() || status < 300)
                return new Verdict.LookUp(response.dify() ? Symptom.SERVER_ERROR : Symptom.GATEWAY, response.why());
            var words = message(response).isEmpty() ? "" : ": " + message(response);
            if (status == 400 && !words.isEmpty()) return Outcome.failed(response.message());
            return Outcome.failed(switch (status) {
                // Dify's own 403 has a code, so it has stopped the batch above
                case 403 -> "HTTP 403 from a firewall" + words;
                case 413 -> "too large for the server (413)" + words;
                default -> "HTTP " + status + words;
            });
        }

        /// Returns why the refusal stops the batch, if it does. A colon in the code would look like its end.
        private Optional<Stop> stop(Response.Refused response) {
            var answer = response.status() + " " + response.code().replace(':', ' ') + ": " + response.message();
            Object[] facts = {message(response), access, response.status(), access.advice(), response.message()};
            return STOPS.stream().filter(known -> known.answer().matcher(answer).lookingAt()).findFirst()
                    .map(known -> new Stop(known.exit(), known.what().formatted(facts), known.hint().formatted(facts)));
        }

        /// Judges an error event without a code by its message, because Dify 1.14 reports even a bad input with status
        /// 500. If the message is known, the event gets the code that a response would have. An unknown message may be
        /// a fault of the worker during the run, so the run is looked up.
        private Verdict refusedInWords(Attempt attempt, Response.Refused response) {
            var words = response.message();
            if (NO_MODEL.matcher(words).find())
                return refused(attempt, Response.Refused.event(400, "provider_not_initialize", words, response.run()));
            if (words.startsWith("No class mapping found"))
                return refused(attempt, Response.Refused.event(400, "invalid_param", words, response.run()));
            if (BAD_ROW.matcher(words).find()) return Outcome.failed(words);
            return new Verdict.LookUp(Symptom.STREAM_ERROR, words);
        }

        /// Returns the message as one line of a terminal. Dify can quote a whole request in it.
        private static String message(Response.Refused response) {
            return Text.printable(response.message(), 200).strip();
        }

        /// Returns a wait that grows with the row's earlier refusals, which do not count as failures.
        private Verdict throttled(Attempt attempt, Response.Refused response) {
            return new Verdict.Throttled(backoff.delay(attempt.tries().throttled(), response.retryAfter()),
                    message(response));
        }

        /// Returns another attempt, or the failure if all retries are used up.
        Verdict again(Attempt attempt, String why, Optional<Duration> retryAfter) {
            int failed = attempt.tries().failed();
            return failed < backoff.maxRetries() ? new Verdict.Again(backoff.delay(failed, retryAfter), why)
                    : Outcome.failed(why);
        }

        /// Holds the values of `--retry-failed-runs`: which failed runs are run again, and so paid for again.
        enum RetryRuns {
            NEVER, TRANSIENT, ALWAYS;

            /// Returns the value as it is typed, which the help and messages show.
            @Override
            public String toString() {
                return name().toLowerCase(Locale.ROOT);
            }
        }
    }

    /// Decides what a look-up's result means, and whether a row with an unresolved attempt may be sent again. A row
    /// that an earlier session left unknown is sent again with `--resend-unknown`, or if its id is named.
    record LookUpRules(Judge judge, Limits limits, boolean resendUnknown) {
        private static final String SAFER = "; --mode blocking is safer";

        /// Holds what the engine knows besides the look-up's result.
        ///
        /// @param passed since when this session knows that the server's queue moved past the attempt; empty if unknown
        /// @param hasStreamsToCome true if streams of this session that have not started yet may still show this
        /// @param stopAsked  true if this session asked Dify to stop the run
        /// @param hasSuccess true if the row has a result by now
        record LookUpContext(Release.Listing listing, Optional<Instant> passed, boolean hasStreamsToCome,
                boolean stopAsked, boolean hasSuccess) {}

        /// Returns the steps to take, which the engine carries out in this order.
        List<Step> steps(Unresolved unresolved, LookUpResult found, LookUpContext here, Instant now) {
            return switch (unresolved.purpose()) {
                case OUTCOME -> decideUnresolved(unresolved, found, here, now);
                case QUIET -> quiet(unresolved, found, here);
                case RESEND -> recheck(unresolved, found, here, now);
                case LATE -> late(unresolved, found, here);
            };
        }

        /// Handles a silent stream. Unless its run has ended, the stream is still waited for, so nothing is to be done.
        private List<Step> quiet(Unresolved unresolved, LookUpResult found, LookUpContext here) {
            if (!(found instanceof LookUpResult.Ended(var ran, _))) return List.of();
            if (here.stopAsked() && !ran.status().isSuccess())
                return List.of(new Step.Close("interrupted", ran, "stopped on request"));
            // `stopped` may not be final yet, so the run is looked up as after a response with this status
            return List.of(ran.status() == Response.RunStatus.STOPPED
                    ? new Step.Judged(ran, new Verdict.LookUp(Symptom.STOPPED, "stopped: " + ran.error()))
                    : new Step.Take(unresolved.attempt(), ran, judge.afterLook(unresolved.attempt(), ran)));
        }

        /// Handles an attempt that counted as not started, before its row is sent again. If a run has appeared, its
        /// outcome is waited for as after a lost response.
        private List<Step> recheck(Unresolved unresolved, LookUpResult found, LookUpContext here, Instant now) {
            if (found instanceof LookUpResult.Absent) // rechecked, so the row's next attempt is looked up, if any
                return List.of(new Step.SendAgain(unresolved.attempt().tries(), true));
            // the time limit begins when the server responds again
            if (found instanceof LookUpResult.Silent silent && !silent.isAnswer())
                return failedLookUp(unresolved.attempt(), silent.response(), lookAgain(unresolved.later(now)));
            return decideUnresolved(new Unresolved(unresolved.attempt(), unresolved.response(),
                    unresolved.symptom(), unresolved.why(), unresolved.since(), now.plus(limits.timeout())),
                    found, here, now);
        }

        /// Handles an attempt whose run was looked for once more before the session ends. A success is kept if the row
        /// has none, because it was paid for. Any other result changes nothing.
        private List<Step> late(Unresolved unresolved, LookUpResult found, LookUpContext here) {
            if (!(found instanceof LookUpResult.Ended(var ran, _)) || !ran.status().isSuccess()) return List.of();
            // the inputs that Dify recorded are not needed, because the row has not changed
            return here.hasSuccess() || !unresolved.attempt().isCurrent() ? List.of()
                    : succeeded(unresolved, ran, Map.of());
        }

        /// Gives a row the outcome of its run. Only a report of Dify itself counts. A look-up that failed shows nothing
        /// about the run, so the run is looked up again.
        private List<Step> decideUnresolved(Unresolved unresolved, LookUpResult found, LookUpContext here,
                Instant now) {
            return switch (found) {
                case LookUpResult.Ended(var ran, var inputs) when ran.status().isSuccess() ->
                        succeeded(unresolved, ran, inputs);
                case LookUpResult.Ended(var ran, _) -> failed(unresolved, ran, now);
                case LookUpResult.Running running -> running(unresolved, running, now);
                case LookUpResult.Unanswered(var isOver) -> unanswered(unresolved, isOver, here.listing(), now);
                case LookUpResult.Absent() when unresolved.is(Symptom.UNCONFIRMED) -> notStored(unresolved);
                case LookUpResult.Absent() -> absent(unresolved, here, now);
                case LookUpResult.Silent(Response.Unreadable(var run, var why)) ->
                        giveUp(unresolved.withRun(run), new Outcome(RowStatus.UNKNOWN, why));
                case LookUpResult.Silent(Response.Refused refused) -> failedLookUp(unresolved.attempt(), refused,
                        waited(unresolved, "looking up the run failed: HTTP " + refused.status(), now));
                // without a response there is no deadline, because [Health] ends a session with a silent server
                case LookUpResult.Silent(var response) ->
                        failedLookUp(unresolved.attempt(), response, lookAgain(unresolved.later(now)));
            };
        }

        /// Keeps a result that was paid for. If its row has changed since, it gets the inputs that Dify recorded.
        private List<Step> succeeded(Unresolved unresolved, Response.Ran ran, Map<String, String> inputs) {
            var attempt = unresolved.attempt();
            var verdict = judge.afterLook(attempt, ran);
            if (attempt.isCurrent()) return List.of(new Step.Take(attempt, ran, verdict));
            if (inputs.isEmpty()) return unknown(unresolved.withRun(ran.run()), ran.ref().name()
                    + " succeeded, but the row has changed since, and Dify does not show the inputs that were sent");
            var sent = attempt.with(attempt.row().recorded(inputs), attempt.tries());
            return List.of(new Step.Say("Row " + Text.id(attempt.row().id()) + " changed after " + ran.ref().name()
                            + " was sent; its result has the inputs that were sent. --rerun-changed runs it again."),
                    new Step.Take(sent, ran, verdict));
        }

        /// Decides about a stored run that did not succeed. Whether the row is sent again depends on why its outcome
        /// was unknown.
        private List<Step> failed(Unresolved unresolved, Response.Ran ran, Instant now) {
            var attempt = unresolved.attempt();
            // the row was about to be sent again, and a failed run does not change that; false in `SendAgain`: other
            // attempts of the row that are unseen are looked up first
            if (unresolved.is(Symptom.RECHECK)) return List.of(new Step.SendAgain(attempt.tries(), false));
            boolean isOverTime = unresolved.is(Symptom.TIMED_OUT) || unresolved.is(Symptom.OVERDUE);
            // Dify may store `stopped` a moment before the real end, see [Unresolved.LookUpState#afterStop]; after the
            // time limit, the run is not looked up again, because its row counts as timed out
            if (ran.status() == Response.RunStatus.STOPPED && !unresolved.state().wasStopped() && !isOverTime)
                return lookAgain(unresolved.with(unresolved.state().afterStop(now)));
            if (attempt.isOfLostEdits()) // the cells that would be sent again are not those that the user edited
                return List.of(new Step.Take(attempt, ran, Outcome.failed(ran.error())));
            // an earlier session stopped the run itself, so that is not the row's failure
            if (unresolved.is(Symptom.INTERRUPTED)) return List.of(
                    new Step.Close("interrupted", ran, "stopped on request"),
                    new Step.SendAgain(Attempt.Tries.NONE, false));
            if (unresolved.is(Symptom.UNCONFIRMED)) {
                // the stream's last event has the run's price, which the stored run lacks
                var end = unresolved.response() instanceof Response.Ran response && !response.isBare() ? response : ran;
                return List.of(new Step.Judged(end, judge.confirmed(attempt, unresolved.response(), end)));
            }
            return List.of(new Step.Take(attempt, ran, isOverTime
                    ? Outcome.failed("timed out: " + unresolved.why()) : judge.afterLook(attempt, ran)));
        }

        /// Judges a reported failure of which Dify has no stored run. If the response contains steps, they were paid
        /// for, so the response is kept. Otherwise its run id was made up and must not be recorded.
        private List<Step> notStored(Unresolved unresolved) {
            var verdict = judge.notStored(unresolved.attempt(), unresolved.response());
            if (verdict instanceof Verdict.LookUp) return List.of(new Step.Judged(Response.NOTHING, verdict));
            var known = switch (unresolved.response()) {
                case Response.Refused error ->
                        Response.Refused.event(error.status(), error.code(), error.message(), Optional.empty());
                case Response.Ran ran when !ran.isBare() -> ran;
                case Response.Ran _, Response.Cut _, Response.Unreadable _, Response.NotSent _,
                        Response.NotUploaded _ -> Response.NOTHING;
            };
            return List.of(new Step.Judged(known, verdict));
        }

        /// Waits for a run that is still active. A paused run gets its outcome at once, because only a person can
        /// continue it.
        private List<Step> running(Unresolved unresolved, LookUpResult.Running found, Instant now) {
            var known = unresolved.running(found, now, limits.timeout());
            return found.status() == Response.RunStatus.PAUSED ? giveUp(known, Outcome.PAUSED)
                    : waited(known, "run " + found.ref().id() + " is still running "
                            + Text.seconds(Duration.between(known.start(), now)) + " after its start", now);
        }

        /// Waits for the answer of a chatflow's message that is still empty. No answer will come if the run is over
        /// (1.16 reports that), or if the client of a stream has disconnected (1.9).
        private List<Step> unanswered(Unresolved unresolved, boolean isOver, Release.Listing listing, Instant now) {
            if (isOver) return unknown(unresolved,
                    "the run ended without an answer (it was stopped, or the answer is empty)");
            var why = "the chatflow's message is still empty; the run may still be active";
            boolean isLeft = listing == Release.Listing.WITHOUT_END && unresolved.attempt().mode() == Mode.STREAMING;
            return isLeft ? unknown(unresolved, why + SAFER) : waited(unresolved, why, now);
        }

        /// Decides what it means that no run was found, which depends on when the server lists runs. A run whose id is
        /// known exists, unless Dify made up the id, so it is never considered not started.
        private List<Step> absent(Unresolved unresolved, LookUpContext here, Instant now) {
            var known = unresolved.run().filter(run -> !run.isMadeUp());
            boolean isStream = unresolved.attempt().mode() == Mode.STREAMING;
            if (here.listing() == Release.Listing.OTHER_APP) return unknown(unresolved,
                    "the run was not found; with --same-app, it may belong to another app");
            if (known.isPresent())
                return waited(unresolved, "Dify no longer has run " + known.get().id(), now);
            // it may have had a result, so it never counts as not started
            if (unresolved.is(Symptom.LOST_RESULT)) return unknown(unresolved, "Dify no longer has its run");
            return switch (here.listing()) {
                // Dify makes up an id only after the run has left the queue
                case FROM_START -> isStream && unresolved.run().isEmpty() ? queued(unresolved, here, now)
                        : settled(unresolved, unresolved.since(), now);
                case WITHOUT_END -> settled(unresolved, unresolved.since(), now);
                case AT_END, NOT_KNOWN, OTHER_APP -> unlisted(unresolved, here.listing(), now);
            };
        }

        /// Handles a server that may list a run only after its end, and may never list a stream whose client has
        /// disconnected. Up to 1.10 (`AT_END`), it never does, so waiting is useless. A server whose version is not
        /// known may still list it.
        private List<Step> unlisted(Unresolved unresolved, Release.Listing listing, Instant now) {
            if (unresolved.attempt().mode() != Mode.STREAMING) return waited(unresolved,
                    "no run was found within the time limit, but this Dify lists runs only after they end", now);
            var why = "this Dify may never list a run whose stream was dropped" + SAFER;
            return listing == Release.Listing.AT_END ? unknown(unresolved, why) : waited(unresolved, why, now);
        }

        /// Handles a stream that may still be in the queue. From Dify 1.13 on, a stream waits there for a worker, even
        /// after its client has disconnected, and the server does not show it meanwhile. Time alone therefore does not
        /// show that it never started. Only a stream that was sent later and has started shows that the queue has moved
        /// past this one. A stream of an earlier session may wait until streams of this session show that.
        private List<Step> queued(Unresolved unresolved, LookUpContext here, Instant now) {
            if (here.passed().isPresent()) return settled(unresolved, here.passed().get(), now);
            var later = unresolved.with(unresolved.state().later(now, false)); // a run in the queue holds no slot
            boolean mayBePassed = unresolved.attempt().isEarlier() && here.hasStreamsToCome();
            if (mayBePassed || now.isBefore(unresolved.state().deadline())) return lookAgain(later);
            return unknown(unresolved, "it may still wait in Dify's queue: no stream that was sent later has started");
        }

        /// Considers an attempt not started if no run has appeared for `--settle`. Until then, a server that is slow
        /// may still list the run.
        private List<Step> settled(Unresolved unresolved, Instant since, Instant now) {
            // false: a run that has not appeared holds no slot
            return now.isBefore(since.plus(limits.settle()))
                    ? lookAgain(unresolved.with(unresolved.state().later(now, false))) : notStarted(unresolved);
        }

        /// Closes an attempt that started no run. An attempt of this session counts as a failure, so that a server that
        /// loses requests does not keep the row going forever. An attempt that a killed session left does not count.
        private List<Step> notStarted(Unresolved unresolved) {
            var attempt = unresolved.attempt();
            if (attempt.isOfLostEdits()) return unknown(unresolved, "the edited row was never run, and its edits "
                    + "are lost; make them again in the shell, then 'retry ID'");
            var close = new Step.Close("not_started", Response.NOTHING, unresolved.why());
            // false: other attempts of the row that are unseen are looked up first
            if (!unresolved.symptom().isOurs()) return List.of(close, new Step.SendAgain(attempt.tries(), false));
            var verdict = judge.again(attempt, unresolved.why() + "; no run was started", Optional.empty());
            var next = verdict instanceof Outcome outcome ? giveUp(unresolved, outcome)
                    : List.<Step>of(new Step.SendAgain(attempt.tries().plus(1, 0), false));
            return Stream.concat(Stream.of(close), next.stream()).toList();
        }

        /// Continues with `otherwise` after a failed look-up, unless the response concerns the whole batch, which then
        /// stops.
        private List<Step> failedLookUp(Attempt attempt, Response response, List<Step> otherwise) {
            return judge.verdict(attempt, response) instanceof Verdict.StopBatch refusal
                    ? List.of(new Step.Abort(refusal)) : otherwise;
        }

        /// Looks again until the deadline. Then a run that timed out is stopped, if its task is known, and gets a
        /// moment to end; the outcome of any other run is unknown. The look-up comes first, because the time in which
        /// Dify moved a run to another worker does not count.
        private List<Step> waited(Unresolved unresolved, String why, Instant now) {
            if (now.isBefore(unresolved.state().deadline())) return lookAgain(unresolved.later(now));
            return unresolved.is(Symptom.TIMED_OUT) && unresolved.hasTask() ? lookAgain(unresolved.overdue(now))
                    : unknown(unresolved, why);
        }

        private static List<Step> lookAgain(Unresolved later) {
            return List.of(new Step.LookAgain(later));
        }

        /// Gives the row the outcome unknown, with the first reason and the reason why no look-up has helped.
        private List<Step> unknown(Unresolved unresolved, String why) {
            return giveUp(unresolved, new Outcome(RowStatus.UNKNOWN, unresolved.why() + "; " + why));
        }

        /// Gives the row this outcome. A row that an earlier session left is sent again instead if `--resend-unknown`
        /// asks for it.
        private List<Step> giveUp(Unresolved unresolved, Outcome outcome) {
            var cut = new Response.Cut(unresolved.run(), unresolved.symptom(), unresolved.why());
            // sent without tries, because the user asked for it, and without further look-ups
            return unresolved.symptom().isOurs() || !resendUnknown ? List.of(new Step.Judged(cut, outcome))
                    : List.of(new Step.Close("resent", cut, outcome.text()),
                            new Step.SendAgain(Attempt.Tries.NONE, true));
        }

        /// Describes a step for the engine to carry out.
        sealed interface Step {
            /// Takes the outcome from the server's records.
            ///
            /// @param attempt the attempt, with the inputs that were sent
            record Take(Attempt attempt, Response.Ran ran, Verdict verdict) implements Step {}

            /// Gives the attempt this verdict. `response` is what this session saw of it.
            record Judged(Response response, Verdict verdict) implements Step {}

            /// Looks the run up again later.
            record LookAgain(Unresolved unresolved) implements Step {}

            /// Logs that the attempt ended in this way.
            record Close(String end, Response response, String why) implements Step {}

            /// Tells the user something that is not an outcome.
            record Say(String text) implements Step {}

            /// Sends the row again. Without `rechecked`, its unseen attempts are looked up first.
            ///
            /// @param rechecked true if this attempt has no run, or the user accepts to pay twice
            record SendAgain(Attempt.Tries tries, boolean rechecked) implements Step {}

            /// Stops the batch, because the look-up was refused for a reason that concerns every request.
            record Abort(Verdict.StopBatch refusal) implements Step {}
        }
    }

    /// Computes the wait before another attempt. It begins with `initial` and doubles each time, up to `max`. Up to
    /// half of it is taken off at random, so that rows are not all sent again at the same moment. A longer
    /// `Retry-After` replaces it.
    ///
    /// @param dice supplies numbers from 0 to 1, which a test can fix
    record Backoff(Duration initial, Duration max, int maxRetries, DoubleSupplier dice) {
        Backoff(Duration initial, Duration max, int maxRetries) {
            this(initial, max, maxRetries, () -> ThreadLocalRandom.current().nextDouble());
        }

        Duration delay(int attempts) {
            double full = Math.min(initial.toMillis() * Math.pow(2, attempts), max.toMillis());
            return Duration.ofMillis((long) (full * (0.5 + dice.getAsDouble() / 2)));
        }

        /// Returns the wait, or a longer `Retry-After` up to the limit of a [Pause].
        Duration delay(int attempts, Optional<Duration> retryAfter) {
            var delay = delay(attempts);
            return retryAfter.filter(asked -> asked.compareTo(delay) > 0)
                    .map(asked -> Collections.min(List.of(asked, Pause.LONGEST))).orElse(delay);
        }

        /// Holds a server's `Retry-After`, before which no request of the batch is sent. If it is too long, the command
        /// ends instead, so that it does not seem to hang.
        record Pause(Instant until, boolean isTooLong) {
            /// A person should decide about a longer wait. The limit is documented in docs/pace.md.
            static final Duration LONGEST = Duration.ofMinutes(10);

            static Optional<Pause> of(Response response, Instant now) {
                return response.pause().map(asked -> new Pause(now.plus(asked), asked.compareTo(LONGEST) > 0));
            }

            String text() {
                return "waiting until " + Times.local("HH:mm", until) + " (Retry-After)";
            }

            Optional<Stop> stop() {
                return !isTooLong ? Optional.empty() : Optional.of(Stop.early("the server asked us to retry after "
                        + Times.local("yyyy-MM-dd HH:mm xxx", until), "run the same command again then"));
            }
        }
    }

    /// Limits the concurrent runs to `-c` at most, and to fewer when the server is full. Only the engine's thread uses
    /// it.
    ///
    /// In both modes, a server is full if it refuses a run as too many, or if several runs wait before they start. The
    /// number of slots then falls at once to what the server was running, and grows back by one after each
    /// round of as many successes as there are slots. A slot that the server does not have is tried again after twice
    /// as many rounds, because each trial makes rows wait or be refused.
    static final class Pace {
        /// A run that takes longer to start has waited in a queue: Dify 1.14 takes 30 ms to a stream's first event.
        private static final Duration QUEUE_WAIT = Duration.ofSeconds(1);
        /// A wait must also be this many times the shortest one, because some servers always take over a second.
        private static final int QUEUE_FACTOR = 4;
        /// One run may wait for another reason, such as a server that has just restarted.
        private static final int WAITS_BEFORE_CUT = 2;
        /// Limits the doubling, so that a server that has grown meanwhile is still tried.
        private static final int MAX_ROUNDS = 10;
        /// A run counts as dead after a silence of this many times the slowest run so far, because runs of one workflow
        /// take about as long. Before any run has ended, and for very short runs, `LEAST_PATIENCE` counts.
        private static final int PATIENCE_FACTOR = 4;
        private static final Duration LEAST_PATIENCE = Duration.ofSeconds(10);

        final int ceiling;
        private final Optional<Duration> wait;
        private final Optional<Rate> rate;
        private final ArrayDeque<Span> atWork = new ArrayDeque<>(); // when the last runs were active on the server
        /// Hold numbers of slots (now, the fewest, and the most since the first cut), then the successes since the last
        /// change, the rounds of successes that add a slot, and the waits that may show a queue.
        private int slots, lowest, highest = 0, successes = 0, rounds = 1, waits = 0;
        private boolean isTrial = false; // true until the last slot that was added has lasted a round
        private long cutAt = 0; // the last attempt that had been sent when the limit was lowered
        private Duration shortestWait = Duration.ofDays(1), slowest = Duration.ZERO; // a day: longer than any wait
        /// No row starts before any of these times, which `--wait`, `--rate` and refusals of a full server set.
        private Instant nextByWait = Instant.MIN, nextByRate = Instant.MIN, nextByRefusal = Instant.MIN;

        /// Holds when a run was active on the server.
        private record Span(Instant from, Instant to) {}

        /// @param ceiling the value of `-c`, with which the session starts
        /// @param wait    the value of `--wait`, or null
        /// @param rate    the value of `--rate`, or null
        Pace(int ceiling, Duration wait, Rate rate) {
            this.ceiling = ceiling;
            this.wait = Optional.ofNullable(wait);
            this.rate = Optional.ofNullable(rate);
            this.slots = ceiling;
            this.lowest = ceiling;
        }

        boolean hasRoom(Instant now, int busy) {
            return busy < slots && !now.isBefore(nextStart());
        }

        /// Returns how long a run may be silent before it counts as dead.
        Duration patience() {
            return Collections.max(List.of(LEAST_PATIENCE, slowest.multipliedBy(PATIENCE_FACTOR)));
        }

        /// Counts the slots that runs without a known outcome occupy. They occupy at most half of all slots, because
        /// after a server's restart they may be active forever by its records, and other rows must continue. If there
        /// is only one slot, a run that was cut off holds it for [#patience]. A quiet stream has held it that long
        /// already.
        ///
        /// @param cut   when each run was cut off whose outcome is unknown
        /// @param quiet how many open streams have been silent for [#patience]
        int held(Collection<Instant> cut, int quiet, Instant now) {
            if (slots > 1) return Math.min(cut.size() + quiet, slots / 2);
            return cut.stream().anyMatch(since -> now.isBefore(since.plus(patience()))) ? 1 : 0;
        }

        /// Notes that a run ended on which the server worked for the time `took`. An outage is not part of this time.
        void noteRunTime(Duration took, Instant ended) {
            if (!took.isPositive()) return; // the server reports no time
            if (took.compareTo(slowest) > 0) slowest = took;
            // a twentieth less at both ends, so that runs that follow each other in one slot do not seem to overlap
            var edge = Duration.ofNanos(took.toNanos() / 20);
            atWork.add(new Span(ended.minus(took).plus(edge), ended.minus(edge)));
            if (atWork.size() > 2 * ceiling) atWork.remove(); // earlier runs no longer show how many fit now
        }

        /// Returns how many of the last runs were active at the same time, which the server can surely run again.
        int peakConcurrency() {
            return atWork.stream().mapToInt(run -> (int) atWork.stream().filter(other ->
                    !other.from().isAfter(run.from()) && other.to().isAfter(run.from())).count()).max().orElse(0);
        }

        /// Lets no row start before `time`, because runs that were cut off may still hold the server's slots.
        void noneBefore(Instant time) {
            if (time.isAfter(nextByRefusal)) nextByRefusal = time;
        }

        /// Plans the next start. A start that was a little late does not delay the next ones, so that the rate is kept.
        /// Starts that were missed are not caught up, because they would come all at once.
        void noteStart(Instant now) {
            wait.ifPresent(_ -> nextByWait = Instant.MAX); // no row starts until this one ends
            rate.map(Rate::interval).ifPresent(interval -> {
                var soonest = now.plus(interval.multipliedBy(9).dividedBy(10)); // up to a tenth is made up for
                var planned = (nextByRate.equals(Instant.MIN) ? now : nextByRate).plus(interval);
                nextByRate = planned.isBefore(soonest) ? soonest : planned;
            });
        }

        void noteEnd(Instant now) {
            wait.ifPresent(pause -> nextByWait = now.plus(pause));
        }

        /// Lowers the limit after the server refused a run as too many. Refusals of one moment count as one cut. Runs
        /// that were sent up to `last` counted as running at that cut, so each of their refusals only takes away its
        /// own slot.
        ///
        /// @param sequence the number of the refused attempt
        /// @param running  how many runs the server may have
        /// @param last     the number of the attempt that was sent last
        void cutAfterRefusal(long sequence, int running, long last) {
            if (sequence > cutAt) cut(running, last);
            else {
                successes = 0;
                lower(slots - 1);
            }
        }

        /// Lowers the limit if runs queue on the server before they start. Several waits of over a second that are far
        /// longer than the shortest wait count as a queue. Returns whether the limit was lowered. The parameters are
        /// those of [#cutAfterRefusal].
        boolean cutIfQueued(Duration time, long sequence, int running, long last) {
            if (time.compareTo(shortestWait) < 0) shortestWait = time;
            boolean isQueued = time.compareTo(QUEUE_WAIT) > 0
                    && time.compareTo(shortestWait.multipliedBy(QUEUE_FACTOR)) > 0;
            if (!isQueued || sequence <= cutAt || ++waits < WAITS_BEFORE_CUT) return false;
            int active = Math.max(running, peakConcurrency());
            if (active >= slots) return false; // the server runs as many as there are slots, so others cause the queue
            cut(active, last);
            return true;
        }

        /// Lowers the limit to what the server was running. If that takes back a slot that was on trial, the next trial
        /// waits twice as long.
        private void cut(int running, long last) {
            cutAt = last;
            waits = 0;
            successes = 0;
            rounds = isTrial ? Math.min(2 * rounds, MAX_ROUNDS) : 1;
            isTrial = false;
            lower(running);
            highest = Math.max(highest, slots);
        }

        private void lower(int runs) {
            slots = Math.clamp(runs, 1, slots); // with no slot, no row would ever show that the server has room again
            lowest = Math.min(lowest, slots);
        }

        /// Counts a success, and adds a slot after enough rounds of successes.
        void noteSuccess() {
            successes++;
            if (successes % slots == 0) waits = 0; // single waits far apart are no queue
            if (isTrial && successes >= slots) {
                rounds = 1;
                isTrial = false;
            }
            if (successes < rounds * slots) return;
            successes = 0;
            if (slots == ceiling) return;
            slots++;
            highest = Math.max(highest, slots);
            isTrial = true;
        }

        int slots() {
            return slots;
        }

        /// Formats the lowest limit and the highest since the first cut: `2–4 (limit 8)`.
        String span() {
            return lowest + (highest > lowest ? "–" + highest : "") + " (limit " + ceiling + ")";
        }

        Instant nextStart() {
            return Collections.max(List.of(nextByWait, nextByRate, nextByRefusal));
        }

        /// Allows one start per `interval`.
        record Rate(Duration interval) {}
    }

    /// Records whether the server responds. After five failures in a row it counts as down. Until it responds again,
    /// only one probe at a time is sent, which starts no run. Only the engine's thread uses this class.
    static final class Health {
        /// So many failures in a row mean that the server is down. A single connection may break for another reason.
        private static final int STREAK = 5;
        /// The session stops early if the server does not respond for this time, which is far longer than a restart.
        private static final Duration MAX_SILENCE = Duration.ofMinutes(5);
        /// The session stops early if every run is rejected as too many for this time, although none of ours is active.
        /// Runs of other clients end meanwhile. Slots that a crash has lost, or a limit that rejects all streams, stay.
        private static final Duration MAX_REFUSAL = Duration.ofMinutes(1);
        private static final Duration MAX_PAUSE = Duration.ofSeconds(3); // a server that is back is noticed soon
        /// Delays the probe after a failure that may have started a run, because the run's look-up may be answered
        /// before and makes the probe unnecessary.
        private static final Duration FIRST_PROBE_DELAY = Duration.ofSeconds(1);

        private final Backoff backoff;
        /// Count failures in a row, runs whose end was not seen, and refusals while none of our runs is active.
        private int streak = 0, doubts = 0, refusals = 0;
        private boolean refusedTooLong = false;
        /// Until this time, set by a `Retry-After`, neither rows, look-ups nor probes are sent.
        private Instant pausedUntil = Instant.MIN;
        private Instant nextProbe = Instant.MAX, downAt = Instant.MAX;
        private Instant silentSince = Instant.MAX, refusedSince = Instant.MAX, failedAt = Instant.MIN;
        private Instant doubtedAt = Instant.MIN;

        Health(Backoff backoff) {
            this.backoff = backoff;
        }

        private boolean isDown() {
            return streak >= STREAK;
        }

        boolean isOpen(Instant now) {
            return !now.isBefore(opens());
        }

        /// Returns when rows and look-ups may be sent. If the server is down, no time is known: its response to a probe
        /// ends the wait.
        Instant opens() {
            return isDown() ? Instant.MAX : pausedUntil;
        }

        Instant nextProbe() {
            return nextProbe.isAfter(pausedUntil) ? nextProbe : pausedUntil;
        }

        /// Pauses until this time. A later pause that is shorter does not end the first one sooner.
        void pause(Instant until) {
            if (until.isAfter(pausedUntil)) pausedUntil = until;
        }

        /// Returns how many runs ended unseen, until the server responds to a request that was sent after that. They
        /// keep their slots, so that an outage leaves no more of them than there are slots.
        int doubts() {
            return doubts;
        }

        /// Notes that a request may have started a run, but got no response.
        void noteUnseenEnd(Instant now, Instant sent) {
            doubts++;
            doubtedAt = now;
            noteFailure(now, sent);
        }

        /// Counts a failure. If the server already counts as down, a run that was sent before shows nothing new.
        /// Otherwise, `-c 64` would wait as long as after 59 probes.
        void noteFailure(Instant now, Instant sent) {
            if (isDown() && sent.isBefore(downAt)) return;
            failedAt = now;
            if (streak++ == 0) silentSince = now;
            if (streak == STREAK) downAt = now;
            if (isDown()) nextProbe = now.plus(Collections.min(List.of(backoff.delay(streak - STREAK), MAX_PAUSE)));
            else if (doubts > 0) nextProbe = now.plus(FIRST_PROBE_DELAY);
        }

        /// Notes that the server responds, even if it refuses.
        ///
        /// @param sent when the request left to which the server responded. A response to a request that left before a
        ///     failure does not show what became of the run
        void noteResponse(Instant sent) {
            streak = 0;
            silentSince = Instant.MAX;
            if (!sent.isBefore(doubtedAt)) doubts = 0;
            nextProbe = doubts == 0 ? Instant.MAX : doubtedAt.plus(FIRST_PROBE_DELAY);
        }

        /// Notes that the server has run a row.
        void noteSuccess(Instant sent) {
            noteResponse(sent);
            refusals = 0;
        }

        /// Notes that the server refused a run as too many. That is normal while other runs of ours are active.
        void noteRefusal(Instant now, int busy) {
            refusals = busy > 0 ? 0 : refusals + 1;
            if (refusals <= 1) refusedSince = now;
            // several refusals as well, because after long waits two could be a minute apart
            refusedTooLong |= refusals >= STREAK && refusedSince.plus(MAX_REFUSAL).isBefore(now);
        }

        /// Returns why nothing is sent, for the progress line. Returns empty if requests are sent.
        Optional<String> pauseNote(Instant now) {
            if (now.isBefore(pausedUntil)) return Optional.of("waiting "
                    + Text.seconds(Duration.between(now, pausedUntil)) + " (Retry-After)");
            if (!isDown()) return Optional.empty();
            boolean isLater = now.isBefore(nextProbe) && nextProbe.isBefore(Instant.MAX);
            return Optional.of("no response, trying again "
                    + (isLater ? "in " + Text.seconds(Duration.between(now, nextProbe)) : "now"));
        }

        /// Returns why the session stops, if the server has been silent or full for too long.
        ///
        /// @param busy counts requests without a response so far, each of which may still be answered
        Optional<Stop> verdict(Instant now, int busy) {
            var asked = failedAt.isBefore(pausedUntil) ? failedAt : now; // nothing is sent in a pause
            if (isDown() && busy == 0 && silentSince.plus(MAX_SILENCE).isBefore(asked))
                return Optional.of(Stop.early("the server has not responded for "
                        + Text.seconds(Duration.between(silentSince, now)),
                        "run the same command again when it is back"));
            return !refusedTooLong ? Optional.empty() : Optional.of(Stop.early(
                    "the server rejects every run with \"too many requests\", though none of ours is active",
                    "after a crash, wait ten minutes; if the app allows one run at a time, use --mode blocking"));
        }
    }

    /// Holds the limits that end a session, each null if not set, and how long a run may take.
    ///
    /// @param settle how long an interrupted run is looked for before it counts as not started
    record Limits(Ceiling maxFailures, Long maxTokens, BigDecimal maxCost, Duration grace, Duration timeout,
            Duration settle) {
        static final int FIRST_ROWS = 20; // if fewer rows fail, that may still be chance
        private static final String CONTINUE = "a higher limit continues";

        /// Stops the batch at `--max-failures`.
        Optional<Stop> tooManyFailed(long failed, long done) {
            return maxFailures == null || !maxFailures.isReached(failed, done) ? Optional.empty()
                    : Optional.of(Stop.early("--max-failures reached: " + Text.count(failed, "row") + " failed",
                            "see why with status, then run or retry"));
        }

        /// Stops the batch if its first rows all failed for one reason, because the other rows would probably fail,
        /// too.
        Optional<Stop> sameCause(Map<String, Long> causes, long done) {
            // the user's own `--max-failures` replaces this limit
            if (maxFailures != null || causes.size() != 1) return Optional.empty();
            var cause = causes.entrySet().iterator().next();
            return done < FIRST_ROWS || cause.getValue() < done ? Optional.empty()
                    : Optional.of(Stop.early("the first " + done + " rows all failed: " + cause.getKey(),
                            "--max-failures off continues anyway"));
        }

        /// Stops the batch if its tokens or cost have reached their limit, or if the cost cannot be known.
        ///
        /// @param spent what the batch has spent in all its sessions, so that repeating the command does not repeat it
        /// @param own what this session has spent: earlier ones may have had no prices because they did not stream
        Optional<Stop> limitReached(Usage.Spending spent, Usage.Spending own) {
            if (maxTokens != null && spent.tokens() >= maxTokens)
                return Optional.of(Stop.early("--max-tokens reached: " + spent.tokens() + " tokens used", CONTINUE));
            if (maxCost == null) return Optional.empty();
            // otherwise the limit would never stop anything
            if (own.lacksPrices()) return Optional.of(Stop.early(
                    "--max-cost does not work here: Dify reports no prices for this app's runs", "use --max-tokens"));
            var paid = spent.paid();
            var currencies = Text.printable(String.join(" and ", paid.keySet()), 40); // a server's texts, of any length
            if (paid.size() > 1) return Optional.of(Stop.early(
                    "--max-cost counts one currency, but Dify reports prices in " + currencies, "use --max-tokens"));
            var total = paid.values().stream().findFirst().orElse(BigDecimal.ZERO);
            if (total.compareTo(maxCost) < 0) return Optional.empty();
            var spentText = (total.stripTrailingZeros().toPlainString() + " " + currencies).strip();
            return Optional.of(Stop.early("--max-cost reached: " + spentText + " spent", CONTINUE));
        }

        /// Stops the batch if a mode was chosen automatically in which the cost cannot be known.
        Optional<Stop> costUnavailable(Mode mode) {
            return maxCost == null || mode != Mode.BLOCKING ? Optional.empty()
                    : Optional.of(Stop.early("--max-cost does not work here: this server rejects streams, and only "
                            + "streams report prices", "use --max-tokens"));
        }

        /// Holds a number of failed rows (`20`), or their share (`5%`) of the rows that have ended.
        record Ceiling(long count, double share) {
            /// Returns whether the limit is reached. A share counts from the first 20 rows on. `100%` is reached if all
            /// rows failed, although no share is larger.
            boolean isReached(long failed, long ended) {
                return count > 0 ? failed >= count : ended >= FIRST_ROWS && (failed > share * ended || failed == ended);
            }
        }
    }

    /// Estimates how the server's queue of streamed runs moves. Dify does not show the queue, so this batch's own runs
    /// are the only sign. Only the engine's thread uses it.
    static final class StreamQueue {
        /// Requests that leave within this time may enter the queue in another order.
        private static final Duration REORDERING = Duration.ofSeconds(1);

        private final Map<String, Instant> passedSince = new HashMap<>(); // by user, of which each attempt has its own
        private Instant newestBegun;

        /// @param newestBegun when an earlier session sent the newest stream that has begun
        /// @param now         replaces a `newestBegun` that lies in the future, which happens if the clock was set back
        ///     between the sessions
        StreamQueue(Instant newestBegun, Instant now) {
            this.newestBegun = newestBegun.isAfter(now) ? now : newestBegun;
        }

        /// Notes that a stream has left the queue. The others that were sent before it are then past their turn.
        void noteStart(Attempt attempt) {
            if (attempt.mode() == Mode.STREAMING && attempt.at().isAfter(newestBegun)) newestBegun = attempt.at();
        }

        /// Notes that the server has no run of this attempt. If it is past its turn, `--settle` counts from the first
        /// time that this is seen, because a run that began in its turn would soon be listed.
        void noteAbsent(Attempt attempt, Instant now) {
            if (attempt.at().plus(REORDERING).isBefore(newestBegun)) passedSince.putIfAbsent(attempt.user(), now);
        }

        /// Returns when this session first saw that a stream sent after this one has started, or empty if it has not.
        Optional<Instant> passedSince(Attempt attempt) {
            return Optional.ofNullable(passedSince.get(attempt.user()));
        }
    }

    /// Chooses the mode of the next attempt, and records when the server lists runs. Only the engine's thread uses it.
    static final class ModePolicy {
        /// A connection that breaks after this time was probably cut by a proxy, often after 60 s. A stream survives
        /// that limit, because it has pings.
        private static final Duration PROXY_TIMEOUT = Duration.ofSeconds(25);
        /// Each rejected stream holds one of Dify's connections for 300 s, and there are ten by default. Three show
        /// that the rejections are no exception, and leave enough connections for the other rows.
        private static final int MAX_REJECTED_STREAMS = 3;

        final AppKind app;
        private final boolean holdsRefused;
        /// Holds by user when runs of earlier sessions are listed, because another server or app may have run them.
        private final Map<String, Release.Listing> listings = new HashMap<>();
        private Mode mode;
        private Release.Listing listing;
        private int refusedStreams = 0;
        private boolean mayStream; // true if streaming may be chosen automatically

        /// @param asked   the value of `--mode`
        /// @param earlier the last mode of the batch, which may have been chosen because of its server
        ModePolicy(Mode asked, Optional<Mode> earlier, AppKind app, String version) {
            this.mayStream = asked == Mode.AUTO;
            this.app = app;
            this.listing = Release.of(version).listing(app);
            this.holdsRefused = Release.of(version).holdsRefused();
            // a chatflow streams, because a blocking response lacks the id of its run; up to Dify 1.10 it does not
            // stream, because a stream whose client has disconnected could be found only by that id, but a blocking run
            // is found by its user
            boolean streams = app == AppKind.CHATFLOW && listing != Release.Listing.WITHOUT_END;
            if (asked != Mode.AUTO) this.mode = asked;
            else this.mode = streams ? Mode.STREAMING : earlier.orElse(Mode.BLOCKING);
        }

        Mode mode() {
            return mode;
        }

        Release.Listing listing(Attempt attempt) {
            return listings.getOrDefault(attempt.user(), listing);
        }

        /// Notes that an earlier session sent the attempt to a server of this version. If the version lists runs
        /// differently from the current one, how the attempt's run would be listed is unknown.
        void noteEarlierServer(String user, String version, boolean isUnknownApp) {
            if (Release.of(version).listing(app) != listing) listings.put(user, Release.Listing.NOT_KNOWN);
            if (isUnknownApp) listings.put(user, Release.Listing.OTHER_APP);
        }

        /// Notes that the server listed an active run. If the version is not known, this shows that it lists runs from
        /// their start. A run whose id is known was found by the id and not in a list. Up to 1.10, a run is also listed
        /// if Dify has given up listening to it, although it is still active.
        void noteListedRunning(Unresolved unresolved) {
            if (unresolved.run().isEmpty() && listing == Release.Listing.NOT_KNOWN)
                listing = Release.Listing.FROM_START;
        }

        /// Changes the mode if the response shows that another mode is safer. Returns what to tell the user about it.
        Optional<String> observe(Response response, Duration took) {
            if (mayStream && mode == Mode.BLOCKING && isProxyCut(response, took)) {
                mode = Mode.STREAMING;
                return Optional.of("A proxy cut off a run after " + Text.seconds(took)
                        + "; continuing in streaming mode.");
            }
            // with a run, the error came after the row had been accepted
            if (response instanceof Response.Refused refused && refused.inStream() && refused.run().isEmpty())
                refusedStreams++;
            boolean isHeld = holdsRefused && refusedStreams >= MAX_REJECTED_STREAMS;
            if (mode != Mode.STREAMING || !isHeld) return Optional.empty();
            mode = Mode.BLOCKING;
            mayStream = false; // for the rest of the session, so that the mode does not change back and forth
            return Optional.of("Dify rejected " + MAX_REJECTED_STREAMS
                    + " rows inside their streams, and keeps each open for 5 minutes; continuing in blocking mode.");
        }

        /// Returns whether a proxy has probably cut off a request that took too long: it responded with 504 or 524, or
        /// the connection broke late. Then a stream may last longer, because its pings pass the proxy.
        private static boolean isProxyCut(Response response, Duration took) {
            return switch (response) {
                case Response.Refused refused -> refused.status() == 504 || refused.status() == 524;
                case Response.Cut cut -> took.compareTo(PROXY_TIMEOUT) > 0 && cut.symptom() != Symptom.TIMED_OUT;
                case Response.Ran _, Response.Unreadable _, Response.NotSent _, Response.NotUploaded _ -> false;
            };
        }
    }

    /// Holds facts about a version of Dify that its responses do not show. This table is the only place that has them.
    /// A version newer than those that were tested counts as the newest. If the version is unknown, the most cautious
    /// facts are assumed.
    ///
    /// @param from         the first version with these facts
    /// @param holdsRefused true if the server keeps the connection open for 300 s when it rejects a row in its stream
    record Release(String from, Listing listing, boolean holdsRefused) {
        /// Matches the numbers of a version. The text that may follow, such as `-rc1`, does not matter.
        private static final Pattern SHAPE = Pattern.compile("\\d{1,4}\\.\\d{1,4}(\\.\\d{1,4})?");
        static final String NEWEST = Demo.VERSION;
        /// Begins with 1.11, because 1.11 to 1.13 were not tested and runs came to be listed from their start in about
        /// 1.11.
        private static final Release UNKNOWN = new Release("1.11", Listing.NOT_KNOWN, true);
        private static final List<Release> NEWEST_FIRST = List.of(
                new Release("1.16", Listing.FROM_START, false),
                new Release("1.14", Listing.FROM_START, true),
                UNKNOWN,
                new Release("0", Listing.AT_END, false));

        /// Defines when a server lists a run, in its log or among the conversations. `WITHOUT_END` means from the run's
        /// start, but never the end of a stream whose client has disconnected. `OTHER_APP` means that the run may never
        /// be listed, because it may belong to another app.
        enum Listing { FROM_START, WITHOUT_END, AT_END, NOT_KNOWN, OTHER_APP }

        static Release of(String version) {
            return parsed(version).flatMap(known -> NEWEST_FIRST.stream().filter(release ->
                    known.compareTo(ModuleDescriptor.Version.parse(release.from)) >= 0).findFirst()).orElse(UNKNOWN);
        }

        private static Optional<ModuleDescriptor.Version> parsed(String version) {
            var match = SHAPE.matcher(version);
            return match.lookingAt() ? Optional.of(ModuleDescriptor.Version.parse(match.group())) : Optional.empty();
        }

        /// Returns a note if the server's version is newer than any that was tested.
        static Optional<String> note(String version) {
            return parsed(version).filter(known -> known.compareTo(ModuleDescriptor.Version.parse(NEWEST)) > 0)
                    .map(_ -> "Note: Dify " + Text.printable(version, 20) + " is newer than " + NEWEST
                            + ", the newest version that difyexec was tested with, and is treated like it.");
        }

        /// Returns when runs are listed. A chatflow's run has its conversation from the start in every version that was
        /// tested.
        Listing listing(AppKind app) {
            return app == AppKind.CHATFLOW && listing == Listing.AT_END ? Listing.WITHOUT_END : listing;
        }
    }

    /// Computes the range that a figure of some rows may have by chance alone, by the percentile bootstrap. It draws as
    /// many rows as there are, with replacement, again and again. Rows that differ from all rows at hand cannot appear
    /// in its range.
    static final class Bootstrap {
        /// With 2,000 draws, 100 of them lie beyond each bound of a 90 % interval, so the bounds are steady. 10,000
        /// rows still take only seconds.
        private static final int RESAMPLES = 2_000;

        /// @param low the lower bound; NaN if the figure is unknown, as `estimate` and `high` are then
        record Interval(double low, double estimate, double high) {}

        /// Returns the interval of the mean, from one value for each row.
        static Interval ofMean(double[] values, double level) {
            return of(values.length, level, List.of(counts -> sum(counts, values) / values.length)).getFirst();
        }

        /// Returns the sum of the values of the rows that were drawn, from which callers compute shares and ratios.
        static double sum(int[] counts, double[] values) {
            double sum = 0;
            for (int row = 0; row < values.length; row++) sum += counts[row] * values[row];
            return sum;
        }

        /// Returns the intervals of several figures at a level, such as 0.95 for 95 %. A figure is computed from how
        /// often each row was drawn, so values of one row stay together. All figures are computed from the same draws,
        /// which are the same each time. Draws for which a figure is unknown (NaN) do not count for it.
        static List<Interval> of(int rows, double level, List<ToDoubleFunction<int[]>> figures) {
            // seeded, so that the same rows always have the same range; its algorithm is part of Java's specification
            var random = new Random(1);
            var drawn = new double[figures.size()][RESAMPLES];
            for (int resample = 0; resample < RESAMPLES; resample++) {
                var counts = new int[rows];
                for (int draw = 0; draw < rows; draw++) counts[random.nextInt(rows)]++;
                for (int n = 0; n < drawn.length; n++) drawn[n][resample] = figures.get(n).applyAsDouble(counts);
            }
            var once = new int[rows]; // each row drawn once: the figure of the rows themselves
            Arrays.fill(once, 1);
            return IntStream.range(0, drawn.length).mapToObj(n -> {
                var sorted = Arrays.stream(drawn[n]).filter(value -> !Double.isNaN(value)).sorted().toArray();
                if (sorted.length == 0) return new Interval(Double.NaN, Double.NaN, Double.NaN);
                int beyond = (int) Math.round((1 - level) / 2 * sorted.length);
                return new Interval(sorted[beyond], figures.get(n).applyAsDouble(once),
                        sorted[sorted.length - 1 - beyond]);
            }).toList();
        }
    }

    // ── Data ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Holds one row of the input. `index` counts from 0, `line` is the line of the file where the row begins, and
    /// `fingerprint` is the hash of `inputs`. If `isEdited` is true, the CSV lacks the changes that the shell made.
    /// `typed` contains the inputs that were numbers or dates in the file, not texts; an export writes them as such.
    record Row(int index, long line, String id, Map<String, String> inputs, long fingerprint, boolean isEdited,
            Set<String> typed) {
        Row {
            if (id.isBlank()) throw new IllegalArgumentException("a row needs an id");
            inputs = Collections.unmodifiableMap(inputs); // not Map.copyOf, which would lose the order of the columns
        }

        /// Creates a row as the file contains it: not edited, and all of its cells are texts.
        Row(int index, long line, String id, Map<String, String> inputs) {
            this(index, line, id, inputs, Fingerprint.of(inputs), false, Set.of());
        }

        /// Returns the row with other cells. Edits that change nothing leave the row as it is in the CSV.
        Row with(Map<String, String> edits) {
            var changed = new LinkedHashMap<>(inputs);
            changed.putAll(edits);
            if (changed.equals(inputs)) return this;
            // an edited cell is text, even if the file had a number
            var same = typed.stream().filter(name -> !edits.containsKey(name)).collect(Collectors.toSet());
            return new Row(index, line, id, changed, Fingerprint.of(changed), true, same);
        }

        /// Returns the row with the inputs of a request that was sent before the row changed. The fingerprint stays
        /// that of the row in the CSV, so that the attempt still counts as sent before the change.
        Row recorded(Map<String, String> sent) {
            return new Row(index, line, id, sent, fingerprint, isEdited, typed);
        }

        String hash() {
            return HexFormat.of().toHexDigits(fingerprint);
        }
    }

    /// Holds one request for one row. Its `user` identifies it on the server, because Dify finds a run by its user.
    /// `sequence` is 0 for an attempt of an earlier session. `fingerprint` is the hash of the inputs that were sent,
    /// and `isEdited` whether the shell had edited them.
    record Attempt(long sequence, Row row, Tries tries, String user, Mode mode, String fingerprint, Instant at,
            boolean isEdited) {
        Attempt with(Row row, Tries tries) {
            return new Attempt(sequence, row, tries, user, mode, fingerprint, at, isEdited);
        }

        /// Moves the time of an earlier session's attempt to the session's start, if the clock was set back since.
        Attempt before(Instant now) {
            return at.isAfter(now) ? new Attempt(sequence, row, tries, user, mode, fingerprint, now, isEdited) : this;
        }

        boolean isEarlier() {
            return sequence == 0;
        }

        /// Returns how long the attempt took. Nobody saw the end of an earlier session's run, so Dify's own time
        /// counts.
        Duration took(Response response, Instant now) {
            return isEarlier() && response instanceof Response.Ran ran
                    ? Duration.ofMillis((long) (ran.usage().seconds() * 1000)) : Duration.between(at, now);
        }

        /// Returns whether the row has not changed since it was sent.
        boolean isCurrent() {
            return fingerprint.equals(row.hash());
        }

        /// Returns whether the cells that were sent are lost, because the shell that edited them has ended or has
        /// edited them again.
        boolean isOfLostEdits() {
            return isEdited && !isCurrent();
        }

        /// Counts a row's attempts in this session. Only `failed` counts against `MAX_RETRIES`, and `throttled` makes
        /// the waits longer. `earlier` counts the retries of earlier sessions, which only `retry_count` includes.
        record Tries(int failed, int throttled, int earlier) {
            static final Tries NONE = new Tries(0, 0, 0);

            Tries plus(int failures, int throttles) {
                return new Tries(failed + failures, throttled + throttles, earlier);
            }

            int retries() {
                return earlier + failed;
            }
        }

        /// Creates the user of each attempt. The name is unique, so a run that is found under it belongs to this
        /// attempt.
        static final class UserNames {
            /// Dify accepts users of up to 255 characters (`users.json`). Sixteen hexadecimal digits, two hyphens and
            /// the counter follow the name.
            private static final int MAX_NAME = 200;

            private final String prefix;
            private long count = 0;

            UserNames(String name) {
                prefix = "%s-%016x-".formatted(name, new SecureRandom().nextLong()); // differs for each session
            }

            /// Returns whether `--user` may be this name. Dify rejects a NUL character (`users.json`), and terminals
            /// obey other control characters.
            static boolean isUsable(String name) {
                return name.length() <= MAX_NAME && name.chars().noneMatch(Character::isISOControl);
            }

            /// Returns whether this tool made the user, so that `pull` can leave out its runs.
            static boolean isOurs(String user) {
                return user.matches("(?s).*-[0-9a-f]{16}-\\d+");
            }

            String next() {
                count++;
                return prefix + count;
            }

            /// Returns how many users were created, which is the sequence number of the last attempt.
            long count() {
                return count;
            }
        }
    }

    /// Identifies a run as the server does. `task` is empty if unknown; `id` is empty if a chatflow's response has no
    /// run id.
    record RunRef(String id, String task) {
        static final RunRef NONE = new RunRef("", "");

        /// Returns whether Dify 1.16 made up the ids, as it does if it rejects a row in its stream. The ids of task and
        /// run are then equal.
        boolean isMadeUp() {
            return id.equals(task);
        }

        boolean isNamed() {
            return !id.isEmpty();
        }

        String name() {
            return isNamed() ? "run " + Text.id(id) : "a run";
        }
    }

    /// Holds what a run consumed. `price` is empty if the server did not report it.
    record Usage(double seconds, long tokens, int steps, Optional<BigDecimal> price, String currency) {
        static final Usage NONE = new Usage(0, 0, 0, Optional.empty(), "");

        /// Returns the run's time as the server reports it, but at most `most`, which is the time that the request
        /// took. A run cannot have taken longer.
        Duration within(Duration most) {
            return Duration.ofMillis(Math.clamp((long) (seconds * 1000), 0, most.toMillis()));
        }

        /// Sums the tokens of runs, and their cost by currency. `unpriced` counts the runs that took tokens and have no
        /// price.
        static final class Spending {
            /// After so many runs without a price, the mode or the models report none. A few may lack one by chance.
            private static final int RUNS_WITHOUT_PRICE = 10;

            private final Map<String, BigDecimal> prices = new TreeMap<>();
            private long tokens = 0, unpriced = 0;

            Map<String, BigDecimal> prices() {
                return Collections.unmodifiableMap(prices);
            }

            long tokens() {
                return tokens;
            }

            long unpriced() {
                return unpriced;
            }

            void add(long more, BigDecimal price, String currency) {
                tokens += more;
                if (price != null) prices.merge(currency, price, BigDecimal::add);
                else if (more > 0) unpriced++; // a run without a model costs nothing
            }

            /// Returns whether later runs will have no price either.
            boolean lacksPrices() {
                return prices.isEmpty() && unpriced >= RUNS_WITHOUT_PRICE;
            }

            /// Returns the cost by currency, without currencies whose sum is 0, because such models have no price.
            SortedMap<String, BigDecimal> paid() {
                var paid = new TreeMap<>(prices);
                paid.values().removeIf(price -> price.signum() == 0);
                return paid;
            }

            /// Returns a multiple of the cost, for a forecast. Three digits are enough for an estimate.
            Map<String, BigDecimal> times(double factor) {
                var times = new TreeMap<>(prices);
                times.replaceAll((_, price) -> price.multiply(BigDecimal.valueOf(factor)).round(new MathContext(3)));
                return times;
            }
        }
    }

    /// Holds what came back from one request, before anything is decided.
    sealed interface Response {
        /// Stands for the response to an attempt of which nothing is known.
        Response NOTHING = new Cut(Symptom.NO_ANSWER, "");

        /// The server rejected the request. `dify` is true if Dify itself responded, and not a proxy in front of it,
        /// because only Dify sends the header `X-Version`. `run` is known if an error event followed the run's start.
        record Refused(int status, boolean dify, boolean inStream, String code, String message,
                Optional<Duration> retryAfter, Optional<RunRef> run) implements Response {
            /// Creates a refusal by the status of a response, which is not within a stream and has no run.
            static Refused http(int status, boolean dify, String code, String message, Optional<Duration> retryAfter) {
                return new Refused(status, dify, false, code, message, retryAfter, Optional.empty());
            }

            /// Creates a refusal for a success whose content is not Dify's. Its status stays below 300, which callers
            /// check.
            static Refused unexpected(String why) {
                return http(200, false, "", why, Optional.empty());
            }

            /// Creates a refusal for an `error` event. Only Dify itself writes into a stream, and without headers.
            static Refused event(int status, String code, String message, Optional<RunRef> run) {
                return new Refused(status, true, true, code, message, Optional.empty(), run);
            }

            /// Returns `HTTP 500 Internal error` if Dify responded, otherwise `HTTP 503, a web page (from a proxy?)`.
            @Override
            public String why() {
                var text = Text.printable(message, 200).strip();
                if (text.isEmpty()) return "HTTP " + status;
                return "HTTP " + status + (dify ? " " : ", ") + text;
            }

            /// Returns whether the app's limit of concurrent runs is reached. Dify responds with 400 instead of 429
            /// (`too_many_blocking.json`), so the message decides.
            boolean isTooMany() {
                return message.startsWith("Too many requests.");
            }

            /// Returns whether a `Retry-After` of this response counts. HTTP defines it for 429 and 503.
            boolean isBusy() {
                return status == 429 || status == 503;
            }

            /// Returns whether the same request may succeed later. 408 and 425 also mean that it was not processed.
            boolean isTransient() {
                return status >= 500 || status == 408 || status == 425 || status == 429;
            }

            @Override
            public Optional<Duration> pause() {
                return isBusy() ? retryAfter : Optional.empty();
            }
        }

        /// Holds a run that ended or paused. `files` is empty unless files were to be saved. `waited` is how long the
        /// request waited before the run started, or empty if unknown. `message` is empty unless the app is a chatflow.
        record Ran(RunRef ref, RunStatus status, ObjectNode outputs, String error, String workflowId, Usage usage,
                Optional<SavedFiles> files, Optional<Duration> waited, ChatMessage message) implements Response {
            /// Creates a run without files, a known wait or a chatflow's message, which are added later.
            Ran(RunRef ref, RunStatus status, ObjectNode outputs, String error, String workflowId, Usage usage) {
                this(ref, status, outputs, error, workflowId, usage, Optional.empty(), Optional.empty(),
                        ChatMessage.NONE);
            }

            /// Creates the run of a chatflow that has answered. Its message contains neither the run's id nor the
            /// workflow's version nor the number of steps, so they stay empty.
            static Ran answered(ObjectNode outputs, double seconds, ChatMessage message) {
                var usage = new Usage(seconds, 0, 0, Optional.empty(), "");
                return new Ran(RunRef.NONE, RunStatus.SUCCEEDED, outputs, "", "", usage).with(message, outputs);
            }

            /// Creates the failed run of a chatflow, whose error Dify puts behind a prefix.
            static Ran failed(String error) {
                return new Ran(RunRef.NONE, RunStatus.FAILED, Json.MAPPER.createObjectNode(),
                        error.replaceFirst("^" + ChatMessage.FAILED, ""), "", Usage.NONE);
            }

            @Override
            public Optional<RunRef> run() {
                return Optional.of(ref).filter(RunRef::isNamed);
            }

            @Override
            public String why() {
                return error;
            }

            Ran with(SavedFiles files) {
                return new Ran(ref, status, outputs, error, workflowId, usage, Optional.of(files), waited, message);
            }

            Ran with(ChatMessage message, ObjectNode outputs) {
                return new Ran(ref, status, outputs, error, workflowId, message.usage(usage), files, waited, message);
            }

            Ran withWait(Optional<Duration> waited) {
                return new Ran(ref, status, outputs, error, workflowId, usage, files, waited, message);
            }

            /// Returns whether the run has an id, but no step and no output. Dify 1.16 makes up such ends when a stream
            /// breaks off, even if the run itself succeeds (`huge_integer.json`).
            boolean isBare() {
                return ref.isNamed() && usage.steps() == 0 && outputs.isEmpty();
            }

            /// Returns whether this can be the end of a run that was asked to stop. Up to 1.14, Dify reports a stop as
            /// `failed` most of the time (`stop_race.json`). An end that Dify made up does not count.
            boolean isStop() {
                return status == RunStatus.STOPPED
                        || status == RunStatus.FAILED && (!isBare() || error.startsWith("Aborted:"));
            }

            /// Returns whether the other response reports the same end again, or is an error that confirms a failure. A
            /// chatflow of 1.9 sends such an error after its failed run.
            boolean agreesWith(Response other) {
                return other instanceof Ran ran ? ref.id().equals(ran.ref.id()) && status == ran.status
                        && error.equals(ran.error) && outputs.equals(ran.outputs) : !status.isSuccess();
            }
        }

        /// The response ended before the run's end was seen. `run` is known if an event came first.
        record Cut(Optional<RunRef> run, Symptom symptom, String why) implements Response {
            Cut(Symptom symptom, String why) {
                this(Optional.empty(), symptom, why);
            }
        }

        /// A run ended, but its outputs cannot be kept: memory is too small for them, they are nested too deeply, or
        /// Dify 1.9 stored them damaged.
        record Unreadable(Optional<RunRef> run, String why) implements Response {}

        /// The request never left, because the connection was refused, the host is unknown, or TLS failed. If `hint` is
        /// not empty, every other request fails, too, until somebody follows the hint.
        record NotSent(String why, String hint) implements Response {}

        /// A file of the row could not be uploaded, so no run was started. `mayPass` is true if another try may
        /// succeed, because the server was unreachable or busy.
        record NotUploaded(String why, boolean mayPass, Optional<Duration> pause) implements Response {}

        String why();

        default Optional<RunRef> run() {
            return Optional.empty();
        }

        default Optional<Duration> pause() {
            return Optional.empty();
        }

        /// Returns the first of the ends that a stream reported, if it belongs to the stream's run and no other end
        /// contradicts it. An error keeps its message, but if there is a run, the stored run decides.
        static Response ofEnds(Optional<RunRef> run, List<Response> ends) {
            return switch (ends.getFirst()) {
                case Refused error -> Refused.event(error.status(), error.code(), error.message(), run);
                case Ran end when !run.map(RunRef::id).equals(Optional.of(end.ref().id())) ->
                        new Cut(run, Symptom.CONTRADICTED, "the stream reported the result of another run");
                case Ran end when ends.stream().allMatch(end::agreesWith) -> end;
                case Ran _ -> new Cut(run, Symptom.CONTRADICTED, "the stream reported two results for one run");
                case Cut _, Unreadable _, NotSent _, NotUploaded _ -> ends.getFirst();
            };
        }

        /// Holds what a chatflow's response contains besides its outputs. If `tokens` is 0, the price is not used
        /// either.
        record ChatMessage(String conversation, String id, long tokens, Optional<BigDecimal> price, String currency) {
            static final ChatMessage NONE = new ChatMessage("", "", 0, Optional.empty(), "");
            /// An HTTP 400 that begins like this is about a run that took place and failed. Other 400s reject inputs.
            static final String FAILED = "Run failed: ";

            /// Adds the message's tokens and price to the usage of its run. If both report tokens, the larger
            /// number counts, so that no cost is missed.
            Usage usage(Usage run) {
                if (tokens == 0) return run; // stored messages have tokens only since 1.16
                var known = price.isPresent() ? currency : run.currency();
                long most = Math.max(run.tokens(), tokens);
                return new Usage(run.seconds(), most, run.steps(), price.or(run::price), known);
            }
        }

        /// Holds the status of a run as Dify reports it. A row's outcome is a [RowStatus].
        enum RunStatus implements Named {
            SUCCEEDED, PARTIAL, FAILED, STOPPED, PAUSED, RUNNING;

            /// Finds a status by Dify's word for it. Returns empty for a word of a later version.
            static Optional<RunStatus> of(String word) {
                return switch (word) {
                    case "partial-succeeded" -> Optional.of(PARTIAL);
                    case "scheduled" -> Optional.of(RUNNING); // declared by Dify, but no version was seen to send it
                    default -> Stream.of(values()).filter(status -> status.word().equals(word)).findFirst();
                };
            }

            boolean isSuccess() {
                return this == SUCCEEDED || this == PARTIAL;
            }
        }

        /// Holds the files that `--save-files` saved from a run's outputs. `missing` contains the reason for each file
        /// that was not saved, and `took` is the time of all downloads.
        record SavedFiles(List<Path> saved, Map<String, String> missing, Duration took) {
            static final SavedFiles NONE = new SavedFiles(List.of(), Map.of(), Duration.ZERO);
        }
    }

    /// Holds why the outcome of a run is unknown. A symptom without a text was seen by this session, so the run may
    /// still be active. A symptom with a text belongs to an attempt that an earlier session left.
    enum Symptom {
        /// Dify itself responded with a server error, so a run may have started.
        SERVER_ERROR,
        /// Something in front of Dify responded instead.
        GATEWAY,
        /// The request left, but no response came.
        NO_ANSWER,
        /// The response or the stream broke off.
        CUT,
        /// The stream reported an error that does not show whether there was a run.
        STREAM_ERROR,
        /// The response has parts of two runs, or belongs to another request.
        CONTRADICTED,
        /// The response reports that the run failed. Dify 1.16 makes up such ends, so the stored run decides.
        UNCONFIRMED,
        /// A stream was silent for too long.
        STREAM_SILENT,
        /// The request took longer than `--timeout`.
        TIMED_OUT,
        /// A look-up showed that the run took longer than `--timeout`, so the run is stopped.
        OVERDUE,
        /// Somebody stopped the run, or Dify reports that a moment before the run's real end.
        STOPPED,
        CRASH("difyexec ended during the run"),
        INTERRUPTED("difyexec was interrupted and stopped the run"),
        /// The run may have had a result that is lost, because the results file is shorter than the log last recorded.
        LOST_RESULT("its result may be missing from the results file"),
        /// The attempt counted as not started, but a run of it may still appear.
        RECHECK("an earlier request was considered not started");

        final String text;

        Symptom() {
            this("");
        }

        /// An earlier session left this attempt.
        Symptom(String text) {
            this.text = text;
        }

        /// Returns whether this session saw the symptom, so that the run may still be active.
        boolean isOurs() {
            return text.isEmpty();
        }
    }

    /// A decision about a row, after a response.
    sealed interface Verdict {
        /// The row is sent again, which uses up one of its retries.
        record Again(Duration after, String why) implements Verdict {}

        /// Dify rejected the run because too many are active. The row is not at fault, so it keeps its retries.
        record Throttled(Duration after, String why) implements Verdict {}

        /// The server was not reached. The row is not at fault, so it keeps its retries.
        record Unreached(Duration after, String why) implements Verdict {}

        /// The run may have started, so it is looked up before anything is sent again.
        record LookUp(Symptom symptom, String why) implements Verdict {}

        /// The batch stops, because every other row would get the same response.
        ///
        /// @param isShutOut true if the server rejects this key from now on, even for looking up active runs
        record StopBatch(Stop stop, boolean isShutOut) implements Verdict {}
    }

    /// Holds the outcome of a row. `text` is the cause if the row did not succeed, otherwise empty.
    record Outcome(RowStatus status, String text) implements Verdict {
        static final Outcome SUCCEEDED = new Outcome(RowStatus.SUCCEEDED, "");
        /// The run succeeded, with failures that the workflow handled itself.
        static final Outcome PARTIAL = new Outcome(RowStatus.PARTIAL, "");
        static final Outcome PAUSED = new Outcome(RowStatus.PAUSED, "waits for human input");

        static Outcome failed(String text) {
            return new Outcome(RowStatus.FAILED, text);
        }
    }

    /// Holds one of the five outcomes, or `PENDING` for a row without an outcome.
    enum RowStatus implements Named {
        PENDING, SUCCEEDED, PARTIAL, FAILED, PAUSED, UNKNOWN;

        /// Serves the log's reader, which needs the status of every line.
        private static final Map<String, RowStatus> BY_WORD = Stream.of(values())
                .collect(Collectors.toMap(RowStatus::word, status -> status));

        boolean isSuccess() {
            return this == SUCCEEDED || this == PARTIAL;
        }

        /// Returns whether `retry` runs the row. A pending row is left to `run`.
        boolean isOnRetryList() {
            return this == FAILED || this == PAUSED || this == UNKNOWN;
        }

        /// Formats the counts that are not 0, each in the color of its status: `3 succeeded, 1 failed`.
        static String counts(ToLongFunction<RowStatus> count, BiFunction<RowStatus, String, String> painted) {
            return Stream.of(values()).filter(status -> count.applyAsLong(status) > 0)
                    .map(status -> painted.apply(status, count.applyAsLong(status) + " " + status.word()))
                    .collect(joining(", "));
        }

        static Optional<RowStatus> of(String word) {
            return Optional.ofNullable(BY_WORD.get(word));
        }
    }

    /// Holds what a look-up is for, which decides what its result means.
    enum Purpose {
        /// The row needs an outcome.
        OUTCOME,
        /// The stream has been silent for a while, so its run may have ended.
        QUIET,
        /// The attempt counted as not started, and its row is about to be sent again.
        RESEND,
        /// The attempt counted as not started, its row was sent again, and the session is about to end.
        LATE
    }

    /// Holds an attempt whose outcome must be looked up on the server. `response` is what the session saw of it: an
    /// unconfirmed failure counts if nothing else is found. `--settle` counts from `since`.
    record Unresolved(Attempt attempt, Response response, Purpose purpose, Symptom symptom, String why, Instant since,
            LookUpState state) {
        /// Creates the first look-up of an attempt. No look-up has shown its run yet, as active or as stopped. The run
        /// holds a slot if this session saw the symptom; a run of an earlier session may have ended long ago.
        Unresolved(Attempt attempt, Response response, Symptom symptom, String why, Instant since, Instant deadline) {
            this(attempt, response, Purpose.OUTCOME, symptom, why, since,
                    new LookUpState(since, 0, Optional.empty(), deadline, false, symptom.isOurs()));
        }

        /// Creates a look-up that does not wait for its run to end. It has no deadline, because the first response of
        /// the server decides, and it holds no slot.
        static Unresolved withoutWait(Attempt attempt, Purpose purpose, Optional<RunRef> run, Instant due) {
            var symptom = purpose == Purpose.QUIET ? Symptom.STREAM_SILENT : Symptom.RECHECK;
            return new Unresolved(attempt, new Response.Cut(run, symptom, symptom.text), purpose, symptom,
                    symptom.text, due, new LookUpState(due, 0, Optional.empty(), Instant.MAX, false, false));
        }

        Optional<RunRef> run() {
            return response.run();
        }

        /// Returns the instant from which `TIMEOUT` counts.
        Instant start() {
            return state.runStart().orElse(attempt.at());
        }

        Instant due() {
            return state.due();
        }

        boolean is(Symptom symptom) {
            return this.symptom == symptom;
        }

        boolean is(Purpose purpose) {
            return this.purpose == purpose;
        }

        /// Returns whether to stop the run before this look-up. An overdue run is stopped once.
        boolean stopsFirst() {
            return symptom == Symptom.OVERDUE && state.looks() == 0;
        }

        /// Returns whether the run's task is known. Only a task can be stopped. Streams report it, and look-ups do not.
        boolean hasTask() {
            return run().filter(ref -> !ref.task().isEmpty()).isPresent();
        }

        /// Returns the look-up of a run that is stopped now and has 30 s to end. Dify stops a run within a second, but
        /// not during a node's call of a model or another server.
        Unresolved overdue(Instant now) {
            // without a look-up so far (0), so that the run is stopped first
            return new Unresolved(attempt, response, purpose, Symptom.OVERDUE, why, since, new LookUpState(now, 0,
                    state.runStart(), now.plusSeconds(30), false, state.holdsSlot()));
        }

        Unresolved with(LookUpState state) {
            return new Unresolved(attempt, response, purpose, symptom, why, since, state);
        }

        /// Adds the run, if it was not known before.
        Unresolved withRun(Optional<RunRef> run) {
            return run().isPresent() || run.isEmpty() ? this : new Unresolved(attempt,
                    new Response.Cut(run, symptom, why), purpose, symptom, why, since, state);
        }

        /// Returns the next look-up of the run, which keeps its slot if it holds one.
        Unresolved later(Instant now) {
            return with(state.later(now, state.holdsSlot()));
        }

        /// Shifts the times of an earlier session's attempt that seems to lie in the future because the clock was set
        /// back. Otherwise, its look-ups would not end for as long.
        Unresolved before(Instant now) {
            var ahead = Duration.between(now, attempt.at());
            if (!ahead.isPositive()) return this;
            return new Unresolved(attempt.before(now), response, purpose, symptom, why, since.minus(ahead),
                    state.withStart(state.runStart(), state.deadline().minus(ahead)));
        }

        /// Notes that the server reported the run as active. The timeout counts from the run's start, because the
        /// request may have waited in a queue. The server's clock may be wrong, but the run started after its request
        /// was sent and before the look-up. The time that Dify took to move the run to another worker does not count.
        /// An overdue run keeps the deadline that it got when it was stopped.
        Unresolved running(LookUpResult.Running found, Instant now, Duration timeout) {
            var known = withRun(Optional.of(found.ref()));
            var start = state.runStart().or(() -> found.age().map(now::minus).map(reported -> between(reported, now)));
            var end = is(Symptom.OVERDUE) ? state.deadline()
                    : start.map(from -> from.plus(timeout).plus(found.moved())).orElse(state.deadline());
            return known.with(new LookUpState(state.due(), state.looks(), start, end, state.wasStopped(), true));
        }

        /// Returns the reported time, but none before the request or after now, which only a wrong clock can report.
        private Instant between(Instant reported, Instant now) {
            if (reported.isBefore(attempt.at())) return attempt.at();
            return reported.isAfter(now) ? now : reported;
        }

        /// Holds the progress of a run's look-ups. `runStart` is empty until the server reports it. An active run is
        /// waited for until `deadline`, and may hold a slot of the server.
        record LookUpState(Instant due, int looks, Optional<Instant> runStart, Instant deadline,
                boolean wasStopped, boolean holdsSlot) {
            LookUpState dueAt(Instant due) {
                return new LookUpState(due, looks, runStart, deadline, wasStopped, holdsSlot);
            }

            LookUpState withStart(Optional<Instant> runStart, Instant deadline) {
                return new LookUpState(due, looks, runStart, deadline, wasStopped, holdsSlot);
            }

            /// Schedules the next look-up after a pause. The pause grows from 0.5 s, for runs that are about to end, to
            /// 15 s, so that long runs do not burden the server. The last look-up is at the deadline.
            LookUpState later(Instant now, boolean holdsSlot) {
                var next = now.plusMillis(Math.min(15_000, (long) (500 * Math.pow(1.5, looks))));
                boolean isLast = now.isBefore(deadline) && next.isAfter(deadline);
                return new LookUpState(isLast ? deadline : next, looks + 1, runStart, deadline, wasStopped, holdsSlot);
            }

            /// Schedules another look-up after 2 s, because Dify may report `stopped` a moment before a run's real end.
            LookUpState afterStop(Instant now) {
                // stopped once, so that a second `stopped` counts; a stopped run holds no slot
                return new LookUpState(now.plusSeconds(2), looks + 1, runStart, deadline, true, false);
            }
        }
    }

    /// Holds the result of a look-up.
    sealed interface LookUpResult {
        /// Another request started the run with this id. That shows nothing about the run that is looked for.
        LookUpResult FOREIGN = new Silent(Response.Refused.unexpected("the run belongs to another request"));

        /// @param inputs the inputs that the server recorded as sent, as cells
        record Ended(Response.Ran ran, Map<String, String> inputs) implements LookUpResult {}

        /// The run is still active or paused. Its `age` is measured by the server's clock. `moved` is how long Dify
        /// took to move it from a worker that was shut down to another one.
        record Running(RunRef ref, Response.RunStatus status, Optional<Duration> age, Duration moved)
                implements LookUpResult {}

        /// The chatflow's message has no answer. It shows only whether the run has ended.
        record Unanswered(boolean isOver) implements LookUpResult {}

        /// There is no such run. Dify either reported that, or its list of the attempt's runs is empty.
        record Absent() implements LookUpResult {}

        /// The look-up failed: no response came, or a response that shows nothing about the run.
        record Silent(Response response) implements LookUpResult {
            /// Returns whether the response shows that the server works. An error that may pass counts as silence,
            /// because a proxy may have sent it while Dify is down.
            boolean isAnswer() {
                return response instanceof Response.Unreadable
                        || response instanceof Response.Refused refused && !refused.isTransient();
            }
        }

        default Optional<RunRef> run() {
            return switch (this) {
                case Ended(var ran, _) -> ran.run();
                case Running running -> Optional.of(running.ref());
                case Unanswered _, Absent _, Silent _ -> Optional.empty();
            };
        }

        /// Returns whether the server has the run.
        default boolean isThere() {
            return !(this instanceof Absent || this instanceof Silent);
        }

        /// Returns the result in one word, for the log.
        default String word() {
            return switch (this) {
                case Ended(var ran, _) -> ran.status().word();
                case Running running -> running.status().word();
                case Unanswered _ -> "unanswered";
                case Absent _ -> "absent";
                case Silent _ -> "no response";
            };
        }
    }

    /// Holds why a batch ends before its rows do, what to do about it, and the exit code.
    record Stop(Exit exit, String what, String hint) {
        Stop {
            what = Text.printable(what, 1000); // may contain a server's text, of any length
            hint = Text.printable(hint, 1000);
        }

        /// Creates the stop of a batch that the server, a limit or a disk ended.
        static Stop early(String what, String hint) {
            return new Stop(Exit.STOPPED, what, hint);
        }

        /// Formats the message: `Stopped: cannot write: No space left on device.`, with `hint: make room` on the next
        /// line.
        String text() {
            return "Stopped: " + what + "." + Unusable.hintLine(hint);
        }
    }

    /// Holds the values of `--mode`. An attempt is never sent with `AUTO`, which lets the [ModePolicy] choose.
    enum Mode {
        AUTO, BLOCKING, STREAMING;

        @JsonValue
        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }
    }

    /// Holds the kinds of apps that run a workflow. They differ in their requests and in how a run is looked up.
    enum AppKind {
        WORKFLOW, CHATFLOW;

        /// Finds a kind by the `mode` of `GET /info`. Dify's other kinds of apps do not run a workflow.
        static Optional<AppKind> of(String mode) {
            return switch (mode) {
                case "workflow" -> Optional.of(WORKFLOW);
                case "advanced-chat" -> Optional.of(CHATFLOW);
                default -> Optional.empty();
            };
        }

        /// Returns the delay between a request and its first look-up. An earlier look-up of a chatflow's conversation
        /// can make Dify create two users of that name, which hides the row for good (`chatflow_early_look.json`, where
        /// half a second was enough). A look-up in a workflow's log only filters by the user.
        Duration firstLook() {
            return this == CHATFLOW ? Duration.ofSeconds(2) : Duration.ZERO;
        }
    }

    /// Holds Dify's URL and the key. `toString` leaves out the key.
    ///
    /// @param appId the app that is meant, if the key is one of several apps, or empty
    record Access(URI baseUrl, String key, String appId, String workflowId, Optional<URI> proxy,
            Optional<Env.Setting> caFile) {
        /// Returns the server's name for a batch's log. A demo has a new port each time, but is always the same server.
        String name() {
            return Demo.KEYS.contains(key) ? "demo" : baseUrl.toString();
        }

        /// Returns the app's name for a batch's log: `<salt>-<hash>` with 64 bits each, because Dify reports no id of
        /// an app. The salt keeps the key secret, and two logs do not show that they have the same key. `DIFY_APP_ID`
        /// is part of the hash.
        String appHash() {
            return appHash(HexFormat.of().toHexDigits(new SecureRandom().nextLong()));
        }

        /// Returns whether a batch's log recorded this app. The part before the hyphen is the salt.
        boolean hasAppHash(String recorded) {
            return recorded.equals(appHash(recorded.split("-", 2)[0]));
        }

        private String appHash(String salt) {
            return salt + "-"
                    + HexFormat.of().toHexDigits(Fingerprint.of(Map.of("salt", salt, "key", key, "app", appId)));
        }

        URI at(String path) {
            return URI.create(baseUrl + path);
        }

        /// Returns what to check if the URL does not lead to Dify's API.
        String advice() {
            return baseUrl.getPath().isEmpty() ? "it has no path; set DIFY_API_BASE_URL to " + baseUrl + "/v1"
                    : "check DIFY_API_BASE_URL, it usually ends in /v1";
        }

        @Override
        public String toString() {
            return baseUrl.toString();
        }
    }

    /// Identifies the app of a session, as the log records it.
    ///
    /// @param isAssumed true if only `--same-app` says that the runs of earlier sessions are this app's
    record AppClaim(String hash, String id, boolean isAssumed) {}

    /// Runs one row. It never throws because of a server's report or silence, because the engine could not tell such an
    /// exception from a fault of its own.
    interface Workflow {
        Response run(Attempt attempt, Consumer<StreamEvent> listener);

        LookUpResult look(Unresolved unresolved);

        void stop(RunRef run, String user);

        /// Sends a request that starts no run. Returns empty if the server responded well, otherwise what happened.
        Optional<Response> probe();
    }

    /// A worker's report about a run in progress. Names and texts are as the server sends them.
    sealed interface StreamEvent {
        /// A file was uploaded. The time limit of the run does not include uploads, so it starts again.
        record Uploaded() implements StreamEvent {}

        /// The first event of a stream came, which contains the id of its run.
        record Began(RunRef run) implements StreamEvent {}

        /// A stream has been silent for a while after its first event.
        record Idle(RunRef run) implements StreamEvent {}

        /// The run has succeeded, and its files are about to be saved once the log has its id.
        record Finished(RunRef run, CompletableFuture<Void> recorded) implements StreamEvent {}

        /// The run waits for a person. Anyone with the token can answer the form.
        record Form(String run, String node, String token, Optional<Instant> until) implements StreamEvent {}

        /// Any other event came. A ping is not an event.
        record OtherEvent() implements StreamEvent {}

        /// An event that a live view of a run shows.
        sealed interface Live extends StreamEvent {}

        record NodeBegan(String title, String type) implements Live {}

        record NodeEnded(String title, String type, String status, double seconds, String error) implements Live {}

        record Chunk(String text) implements Live {}
    }

    // ── Demo ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Runs a small Dify inside this process, so it costs nothing and needs no network. It uses real HTTP on loopback,
    /// so that no part of difyexec works differently in a demo. It is one app with a text variable for each column, and
    /// responds as the recorded servers do. A run continues after its client has disconnected and is kept until
    /// [#close], because look-ups must find it.
    static final class Demo implements AutoCloseable {
        /// The newest Dify that was tested, and the kind of app that `--demo=chatflow` simulates.
        static final String VERSION = "1.16.1", CHATFLOW = "chatflow";
        /// The workflow and the chatflow have different keys, so that a batch of one cannot continue with the other.
        static final List<String> KEYS = List.of("app-demo", "app-demo-chatflow");
        /// The workflow has a published version, and an earlier version that a user can pin.
        private static final String PUBLISHED = uuid("workflow"), EARLIER = uuid("workflow, the version before");

        private final boolean isChatflow;
        private final List<String> columns;
        /// Holds markers that have had their effect, each with the id of its row. Many runs use it and `jobs` at once.
        private final Set<String> usedMarkers = ConcurrentHashMap.newKeySet();
        private final Deque<Job> jobs = new ConcurrentLinkedDeque<>(); // the newest first, as Dify lists runs
        private final HttpServer server;
        /// Every request has a thread, because most of them wait for the end of a run.
        private final ExecutorService threads = Executors.newVirtualThreadPerTaskExecutor();

        /// Starts the server with the routes that difyexec uses. The longest route that a path begins with gets the
        /// request, so their order does not matter, and `/v1/workflows/` gets the runs of a pinned version.
        ///
        /// @param kind the text that follows `--demo=`, or `VERSION` for `--demo` alone
        Demo(String kind, List<String> columns) throws IOException {
            if (!List.of(VERSION, CHATFLOW).contains(kind))
                throw new Unusable("--demo=" + kind + ": the demo simulates Dify " + VERSION
                        + " only", "use --demo, or --demo=" + CHATFLOW + " for a chatflow");
            this.isChatflow = kind.equals(CHATFLOW);
            this.columns = List.copyOf(columns);
            // port 0 is any free port; a large -c opens more connections at once than Java's 50 that may wait
            server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 1024);
            server.setExecutor(threads);
            route("/v1/info", exchange -> send(exchange, 200,
                    object("name", "demo", "mode", isChatflow ? "advanced-chat" : "workflow")));
            route("/v1/parameters", exchange -> send(exchange, 200, object("user_input_form", columns.stream()
                    .map(column -> object("paragraph",
                            object("label", column, "variable", column, "type", "paragraph",
                            "required", false))).toList()))); // empty cells are fine
            route("/v1/workflows/run", exchange -> run(exchange, PUBLISHED));
            route("/v1/workflows/", exchange -> run(exchange, part(exchange, 3))); // the version's id
            route("/v1/chat-messages", exchange -> run(exchange, PUBLISHED));
            route("/v1/workflows/run/", this::sendDetail);
            // difyexec rejects a log whose entries do not show the user that it asked for
            route("/v1/workflows/logs", exchange -> sendList(exchange, "created_by_end_user_session_id",
                    job -> object("id", uuid(job.id() + "log"), "workflow_run", job.stored(),
                            "created_by_end_user", object("session_id", job.user()))));
            route("/v1/conversations", exchange -> sendList(exchange, "user",
                    job -> object("id", uuid(job.id() + "conversation"), "inputs", job.inputs())));
            route("/v1/messages", exchange -> sendList(exchange, "user", Job::message));
            route("/v1/workflows/tasks/", exchange -> stop(exchange, 4)); // the task is part 4 of the path
            route("/v1/chat-messages/", exchange -> stop(exchange, 3)); // followed by /stop, too
            server.start();
        }

        /// Returns the URL to use, such as `http://127.0.0.1:40123/v1`.
        URI baseUrl() {
            return URI.create("http://127.0.0.1:" + server.getAddress().getPort() + "/v1");
        }

        /// Returns the key to send. The demo itself accepts any key, but the batch records to which app it belongs.
        String key() {
            return KEYS.get(isChatflow ? 1 : 0);
        }

        /// Returns the version if it is one of the demo's two, otherwise an empty text, which means the published
        /// version. `DIFY_WORKFLOW_ID` may be set for a real server, which does not concern the demo.
        static String knownVersion(String workflow) {
            return List.of(PUBLISHED, EARLIER).contains(workflow.strip()) ? workflow.strip() : "";
        }

        /// Cuts open connections and drops unfinished runs.
        @Override
        public void close() {
            server.stop(0); // seconds; nobody needs the responses that are still open
            threads.shutdownNow(); // ends the waits for runs
        }

        /// Holds the state of a run, which is final except for `running`.
        ///
        /// @param error null if the run has no error, as in Dify's JSON
        /// @param at    when the run ended, or started if it is active
        private record State(String status, Map<String, Object> outputs, String error, int tokens, Instant at) {
            /// Returns what the run cost. A million tokens cost 1.50 USD, an invented price. Like Dify's, it is a text
            /// with seven decimals.
            Map<String, Object> price() {
                return object("total_tokens", tokens, "total_price", BigDecimal.valueOf(tokens * 15L, 7)
                        .toPlainString(), "currency", "USD");
            }
        }

        /// Holds a run. In a chatflow, each run belongs to one message of a conversation of its own. Ids of further
        /// objects follow from the run's id, so that every response contains the same ones.
        ///
        /// @param task   the id by which the run can be stopped
        /// @param user   the name that difyexec gives to the attempt, and by which it looks up the run
        /// @param inputs the values sent; those of a chatflow include its query
        /// @param end    is complete as soon as the run has ended. The first result counts, so a stop that comes too
        ///     late changes nothing
        private record Job(boolean isChatflow, String workflow, String id, String task, String user,
                Map<String, String> inputs, Instant created, CompletableFuture<State> end) {
            /// Ends the run without outputs and tokens.
            void fail(String status, String error) {
                end.complete(new State(status, Map.of(), error, 0, Instant.now()));
            }

            private State state() {
                return end.getNow(new State("running", Map.of(), null, 0, created));
            }

            /// Returns how long the run took, in seconds with six decimals, as Dify does. It is 0 for an active run.
            private double seconds() {
                return Duration.between(created, state().at()).toNanos() / 1000 / 1e6;
            }

            /// Returns the run as Dify stores it, with times in seconds.
            Map<String, Object> stored() {
                var state = state();
                return object("id", id, "workflow_id", workflow, "status", state.status(), "outputs", state.outputs(),
                        "error", state.error(), "elapsed_time", seconds(), "total_tokens", state.tokens(),
                        // start, model and end; only a run that succeeds reaches the end
                        "total_steps", state.status().equals("succeeded") ? 3 : 2,
                        "created_at", created.getEpochSecond(),
                        "finished_at", end.isDone() ? state.at().getEpochSecond() : null);
            }

            /// Returns the message as Dify stores it. For a failed run, Dify stores no time
            /// (`chatflow_blocking_failed.json`). For a stopped one it stores no error (`chatflow_stop.json`).
            Map<String, Object> message() {
                var state = state();
                var message = chatEvent("message", "id", uuid(id + "message"), "inputs", inputs,
                        "query", inputs.get("query"), "answer", state.outputs().getOrDefault("answer", ""),
                        "metadata", object("usage", state.price()), "total_tokens", state.tokens(),
                        "status", "normal", "error", null, "provider_response_latency", seconds());
                if (state.status().equals("failed")) message.putAll(object("status", "error",
                        "error", "Run failed: " + state.error(), "provider_response_latency", 0.0));
                return message;
            }

            /// Waits until the run has ended and returns the last events of its stream, in Dify's order. The text comes
            /// word by word, because a model writes it that way. After a stop, Dify sends no event for the node; after
            /// a failure, no `message_end`.
            List<Map<String, Object>> finalEvents() {
                var state = end.join();
                var events = new ArrayList<Map<String, Object>>();
                var text = state.outputs().getOrDefault("answer", "").toString();
                for (var word : text.split("(?<= )")) if (!word.isEmpty()) events.add(isChatflow
                        ? chatEvent("message", "answer", word)
                        : event("text_chunk", object("text", word, "from_variable_selector", List.of("llm", "text"))));
                if (!state.status().equals("stopped")) events.add(node("node_finished", "status", state.status(),
                        "error", state.error(), "outputs", object("text", text), "elapsed_time", seconds(),
                        "execution_metadata", state.price()));
                if (isChatflow && state.status().equals("succeeded")) events.add(
                        chatEvent("message_end", "metadata", object("usage", state.price()), "files", List.of()));
                events.add(event("workflow_finished", stored()));
                return events;
            }

            /// Returns an event of the only node that the stream shows, the model.
            Map<String, Object> node(String event, Object... more) {
                var data = object("id", uuid(id + "llm"), "node_id", "llm", "node_type", "llm", "title", "llm");
                data.putAll(object(more));
                return event(event, data);
            }

            /// Returns an event with `data`, which the events of a message do not have.
            Map<String, Object> event(String name, Map<String, Object> data) {
                return isChatflow ? chatEvent(name, "workflow_run_id", id, "data", data)
                        : object("event", name, "task_id", task, "workflow_run_id", id, "data", data);
            }

            private Map<String, Object> chatEvent(String name, Object... more) {
                var event = object("event", name, "conversation_id", uuid(id + "conversation"),
                        "message_id", uuid(id + "message"), "task_id", task);
                event.putAll(object(more));
                return event;
            }
        }

        /// Starts a run. It takes 80 to 300 ms, so that progress can be seen and a demo is still quick. The time
        /// depends only on the inputs, so it is the same in every batch. A marker in a value lets a user try a fault:
        ///
        /// | in any value | the run |
        /// |---|---|
        /// | `[fail]` | fails |
        /// | `[flaky]` | fails with a rate limit the first time that its `id` is sent |
        /// | `[slow]` | takes 5 s |
        /// | `[drop]` | loses its connection the first time that its `id` is sent, and succeeds |
        private Job start(String workflow, JsonNode body) {
            var inputs = new LinkedHashMap<String, String>();
            columns.forEach(column -> inputs.put(column, body.path("inputs").path(column).asText("")));
            if (isChatflow) inputs.put("query", body.path("query").asText());
            var job = new Job(isChatflow, workflow, UUID.randomUUID().toString(), UUID.randomUUID().toString(),
                    body.path("user").asText(), inputs, Instant.now(), new CompletableFuture<>());
            jobs.addFirst(job);
            var text = String.join("\n", inputs.values());
            int millis = text.contains("[slow]") ? 5000 : 80 + Math.floorMod(text.hashCode(), 221);
            // a timer, because the run continues although its client may have left; Runnable::run uses its own thread
            CompletableFuture.delayedExecutor(millis, MILLISECONDS, Runnable::run).execute(() -> {
                if (text.contains("[fail]")) job.fail("failed", "Run failed: the model refused this input");
                else if (useMarker("[flaky]", job)) // difyexec must take it for a failure that passes
                    job.fail("failed", "[openai] Rate Limit Error, 429 Too Many Requests");
                else job.end().complete(new State("succeeded", object(
                        // the two versions answer differently, so that `compare` has something to show
                        "answer", (workflow.equals(EARLIER) ? "Answer to: " : "Demo answer to: ") + question(inputs),
                        "row_id", inputs.get("id")), null, // shows that each row gets its own result
                        16 + text.codePointCount(0, text.length()) / 3, Instant.now())); // about as a model counts
            });
            return job;
        }

        /// Returns the chatflow's query. For a workflow, returns the longest text apart from the id, because that is
        /// most likely what the row is about.
        private String question(Map<String, String> inputs) {
            if (isChatflow) return inputs.get("query");
            return inputs.entrySet().stream().filter(input -> !input.getKey().equals("id"))
                    .map(Map.Entry::getValue)
                    .max(Comparator.comparingInt(String::length)).orElse(inputs.get("id"));
        }

        /// Uses up a marker. Returns whether the inputs contain it and no earlier run of the row did.
        private boolean useMarker(String marker, Job job) {
            return job.inputs().values().stream().anyMatch(value -> value.contains(marker))
                    && usedMarkers.add(marker + job.inputs().get("id"));
        }

        /// Adds a route. Every response contains the version, from which difyexec learns what to expect.
        private void route(String path, HttpHandler handler) {
            server.createContext(path, exchange -> {
                exchange.getResponseHeaders().set("X-Version", VERSION);
                handler.handle(exchange);
            });
        }

        /// Starts a run and responds as the request asks. In blocking mode, Dify reports the failure of a chatflow as
        /// status 400 without a run (`chatflow_blocking_failed.json`).
        private void run(HttpExchange exchange, String workflow) throws IOException {
            var body = Json.MAPPER.readTree(exchange.getRequestBody().readAllBytes());
            var job = start(workflow, body);
            boolean isDropped = useMarker("[drop]", job); // after the start, because the run itself succeeds
            if (body.path("response_mode").asText().equals("streaming")) {
                stream(exchange, job, isDropped);
                return;
            }
            var state = job.end().join();
            if (isChatflow && state.status().equals("failed")) send(exchange, 400, object("code", "invalid_param",
                    "message", "Run failed: " + state.error(), "status", 400));
            else if (isDropped) exchange.close(); // no response has been started, so this closes the connection
            else send(exchange, 200, isChatflow ? job.message()
                    : object("task_id", job.task(), "workflow_run_id", job.id(), "data", job.stored()));
        }

        /// Responds with the run's events. A dropped stream stops in the middle of an event, after difyexec has
        /// received the run's id, so the run can be looked up.
        private void stream(HttpExchange exchange, Job job, boolean isDropped) throws IOException {
            exchange.getResponseHeaders().set("Content-Type", "text/event-stream; charset=utf-8");
            exchange.sendResponseHeaders(200, 0); // 0: the length is not known yet
            var out = exchange.getResponseBody();
            out.write("event: ping\n\n".getBytes(UTF_8));
            write(out, job.event("workflow_started",
                    object("id", job.id(), "workflow_id", job.workflow(), "inputs",
                    job.inputs(), "created_at", job.created().getEpochSecond())));
            write(out, job.node("node_started"));
            if (isDropped) {
                out.write("data: {\"event\": \"text_".getBytes(UTF_8));
                out.flush();
                throw new IOException("dropped as asked for"); // the server then closes the connection
            }
            for (var event : job.finalEvents()) write(out, event);
            exchange.close();
        }

        /// Responds with a stored run. Dify's detail has the inputs as JSON in a text, unlike the events of a stream.
        private void sendDetail(HttpExchange exchange) throws IOException {
            var job = jobs.stream().filter(one -> one.id().equals(part(exchange, 4))).findFirst();
            var detail = job.map(Job::stored).orElseGet(() -> object("code", "not_found"));
            job.ifPresent(found -> detail.put("inputs", Json.text(found.inputs())));
            send(exchange, job.isPresent() ? 200 : 404, detail);
        }

        /// Responds with the runs of the user whose name is the value of `parameter`. Each attempt has a user of its
        /// own, so one page is enough.
        private void sendList(HttpExchange exchange, String parameter, Function<Job, Object> entry) throws IOException {
            // \b, because other names may end the same way
            var user = URLDecoder.decode(exchange.getRequestURI().getRawQuery()
                    .replaceFirst(".*\\b" + parameter + "=([^&]*).*", "$1"), UTF_8);
            var listed = jobs.stream().filter(job -> job.user().equals(user)).map(entry).toList();
            send(exchange, 200, object("total", listed.size(), "has_more", false, "data", listed));
        }

        /// Stops a run. As in Dify, the response is the same for a task that is unknown or has ended.
        private void stop(HttpExchange exchange, int taskAt) throws IOException {
            jobs.stream().filter(job -> job.task().equals(part(exchange, taskAt)))
                    .forEach(job -> job.fail("stopped", "Aborted: User requested stop"));
            send(exchange, 200, object("result", "success"));
        }

        /// Returns a part of the path, or an empty text: part 4 of `/v1/workflows/run/abc` is `abc`.
        private static String part(HttpExchange exchange, int number) {
            var parts = exchange.getRequestURI().getPath().split("/");
            return parts.length > number ? parts[number] : "";
        }

        private static void send(HttpExchange exchange, int status, Map<String, Object> answer) throws IOException {
            var body = Json.text(answer).getBytes(UTF_8);
            exchange.getResponseHeaders().set("Content-Type", "application/json");
            exchange.sendResponseHeaders(status, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        }

        /// Sends an event at once, because a stream shows what happens while it happens.
        private static void write(OutputStream out, Map<String, Object> event) throws IOException {
            out.write(("data: " + Json.text(event) + "\n\n").getBytes(UTF_8));
            out.flush();
        }

        /// Returns the same id for the same name, so that a version's id is the same in every demo and in the docs.
        private static String uuid(String name) {
            return UUID.nameUUIDFromBytes(name.getBytes(UTF_8)).toString();
        }
    }

    // ── Basics ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The version of this program, which requests, logs and pages contain.
    static final String VERSION = "0.4.0", NAME_AND_VERSION = "difyexec " + VERSION;

    /// Gives a constant of an enum its key in files and its words for people, so that neither is written a second time.
    /// To rename such a constant is to change a file format.
    interface Named {
        String name(); // every enum has this method

        default String key() {
            return name().toLowerCase(Locale.ROOT);
        }

        default String word() {
            return key().replace('_', ' ');
        }
    }

    /// Lists the exit codes, which the doc of [DifyExec] explains. picocli itself returns 2 for a bad command line, and
    /// 1 for an exception that nothing catches. Shells report 130 for a program that Ctrl-C ended.
    enum Exit {
        OK(0), BUG(1), UNUSABLE(2), ROWS_FAILED(3), STOPPED(4), INTERRUPTED(130);

        final int code;

        Exit(int code) {
            this.code = code;
        }
    }

    /// Ends a command before it starts any run. The message is one sentence that says what cannot be used and where.
    /// `hint` says what to do about it and is empty if there is nothing to do.
    static class Unusable extends RuntimeException {
        final Exit exit; // mostly UNUSABLE, but for example STOPPED if the server does not respond
        final String hint;

        Unusable(String what) {
            this(what, "");
        }

        Unusable(String what, String hint) {
            this(Exit.UNUSABLE, what, hint);
        }

        Unusable(Exit exit, String what, String hint) {
            super(what);
            this.exit = exit;
            this.hint = hint;
        }

        String what() {
            return getMessage();
        }

        /// Returns the sentence and, on a line of its own, the hint if there is one.
        String text() {
            return what() + hintLine(hint);
        }

        /// Returns the line that follows a sentence on the screen, or an empty text if there is no hint.
        static String hintLine(String hint) {
            return hint.isEmpty() ? "" : "\nhint: " + hint;
        }
    }

    /// Holds the API key of the environment or `.env`. The key is masked wherever text leaves the program, and so is
    /// all that looks like a key of Dify, or like the password in a URL. Files contain the user's data, so in them only
    /// the key itself is masked.
    static final class Secret {
        /// Matches the key of an app, `app-…`, or of a workspace, `sk-<uuid>`. Real keys are longer than 16 characters,
        /// and a shorter text may be a word such as `app-store`, unless it was cut off before a `…`. The end of a
        /// longer word, such as `my-app-…`, is not a key.
        private static final String DIFY_KEY = "(?<!\\w|\\w-)(?:app-(?:[A-Za-z0-9]{16,}|[A-Za-z0-9]+(?=…))"
                + "|sk-(?:[A-Za-z0-9-]{16,}|[A-Za-z0-9-]+(?=…)))";
        /// Matches the user and password of a URL such as `http://me:secret@proxy:3128`, without what is around them.
        private static final String PASSWORD_IN_URL = "(?<=//)[^/@\\s]+(?=@)";
        /// Keys with fewer characters are not masked, because such a short text could occur by chance.
        private static final int MIN_LENGTH = 8;
        private static final Secret NONE = new Secret("");
        /// Holds the key of the command that runs in a thread. Writers of files need it, but are far from the settings.
        static final ScopedValue<Secret> CURRENT = ScopedValue.newInstance();

        private final String key; // empty if there is nothing to mask
        private final Pattern inText, inBytes;

        /// A key of lower-case letters alone is no real key, and could be the name of a field, such as
        /// `workflow_run_id`. Masking it would damage every file.
        Secret(String key) {
            this.key = key.length() < MIN_LENGTH || key.matches("[a-z_]*") ? "" : key;
            var others = DIFY_KEY + "|" + PASSWORD_IN_URL;
            inText = Pattern.compile(this.key.isEmpty() ? others : wholeOrCut("…") + "|" + others);
            inBytes = Pattern.compile(wholeOrCut(new String("…".getBytes(UTF_8), ISO_8859_1)));
        }

        /// Builds a pattern of the key, or of its beginning if the text was cut there, as [Text#printable] does:
        /// `app-12345|(?:app-12345|app-1234)(?=…)`. The longest beginning comes first, because the first match counts.
        private String wholeOrCut(String cut) {
            var beginnings = IntStream.rangeClosed(MIN_LENGTH, key.length())
                    .mapToObj(end -> Pattern.quote(key.substring(0, end))).toList().reversed();
            return Pattern.quote(key) + "|(?:" + String.join("|", beginnings) + ")(?=" + cut + ")";
        }

        /// Returns the key of the command that runs in this thread. Outside of a command there is none, and only what
        /// looks like a key is masked.
        static Secret current() {
            return CURRENT.orElse(NONE);
        }

        boolean occursIn(String text) {
            return !key.isEmpty() && text.contains(key);
        }

        String mask(String text) {
            return mask(inText, text);
        }

        /// Replaces each match with `***`. The prefix stays, because it shows which kind of key was there.
        private static String mask(Pattern pattern, String text) {
            return pattern.matcher(text).replaceAll(found -> found.group().replaceFirst("^(app-|sk-)?.*", "$1***"));
        }

        /// Masks the key in the bytes of a file. ISO-8859-1 has one character for each byte, so all other bytes stay as
        /// they are in any encoding. A file hardly ever contains the key, so a fast search comes first.
        byte[] mask(byte[] bytes) {
            if (key.isEmpty()) return bytes;
            var text = new String(bytes, ISO_8859_1);
            return text.contains(key.substring(0, MIN_LENGTH)) ? mask(inBytes, text).getBytes(ISO_8859_1) : bytes;
        }

        /// Returns a writer that holds back text until a flush, which each line causes. A key that is written in two
        /// parts is then still masked.
        PrintWriter masking(PrintWriter to) {
            boolean autoFlush = true; // at the end of each line
            return new PrintWriter(new StringWriter() {
                @Override
                public void flush() {
                    to.write(mask(toString()));
                    getBuffer().setLength(0);
                    to.flush();
                }
            }, autoFlush) {
                /// A string has no errors, so this asks the writer behind it, whose pipe may be closed.
                @Override
                public boolean checkError() {
                    flush();
                    return to.checkError();
                }
            };
        }

        /// Returns a stream that masks its bytes in large pieces, because single bytes may be written. It holds back as
        /// many bytes as may be the beginning of the key, until the next piece or a flush.
        OutputStream masking(OutputStream out) {
            return key.isEmpty() ? out : new FilterOutputStream(out) {
                private final ByteArrayOutputStream waiting = new ByteArrayOutputStream();

                @Override
                public void write(int one) {
                    waiting.write(one); // the next piece or a flush takes it along
                }

                @Override
                public void write(byte[] bytes, int from, int length) throws IOException {
                    waiting.write(bytes, from, length);
                    if (waiting.size() >= 1 << 16) writeAllBut(key.length() + 2); // 64 KB; 2 of the 3 bytes of …
                }

                private void writeAllBut(int kept) throws IOException {
                    var masked = mask(waiting.toByteArray());
                    int end = Math.max(0, masked.length - kept);
                    out.write(masked, 0, end);
                    waiting.reset();
                    waiting.write(masked, end, masked.length - end);
                }

                @Override
                public void flush() throws IOException {
                    writeAllBut(0);
                    out.flush();
                }
            };
        }
    }

    /// Holds the settings of the process, from its environment, then from the `.env` files of the current folder and of
    /// the script's folder. Only [#needed] rejects a file that cannot be read, because most commands work without one.
    ///
    /// @param environment returns a variable, or null if it is not set
    /// @param invocation  the words that start this program, for use in hints
    record Env(UnaryOperator<String> environment, List<DotEnv> files, String invocation) {
        /// The key in `.env.example`. A user who copies that file and does not edit it has no key yet.
        static final String PLACEHOLDER = "app-your-key-here";

        /// Holds a value and where it is from.
        ///
        /// @param source such as ` in .env`, to follow the name in a message. Empty for the environment
        /// @param fault  why the value cannot be read, or empty. `remedy` is then the hint
        record Setting(String name, String text, String source, String fault, String remedy) {
            /// Describes a setting for messages: `TIMEOUT=abc`, but only `TIMEOUT in .env`, because a line of a file
            /// may contain the key.
            String place() {
                return source.isEmpty() ? name + "=" + Text.printable(text, 60) : name + source;
            }
        }

        /// @param folders where `.env` is searched for. They may be the same, and each file is read once
        Env(UnaryOperator<String> environment, String invocation, Path... folders) {
            this(environment, Stream.of(folders).map(Path::toAbsolutePath).distinct()
                    .map(folder -> new DotEnv(folder.resolve(".env"))).toList(), invocation);
        }

        /// Returns the words that start this program, for use in hints. They are those that `./jbang` passes on,
        /// `java -jar` and the jar, `jbang DifyExec.java` if the script is in the current folder, and otherwise the
        /// installed command `difyexec`.
        ///
        /// @param typed the words and arguments that `./jbang` passes on, with a separator that nobody types. Null if
        ///     the program was started without it
        static String findInvocation(String typed, List<String> args, String classPath, boolean isInFolder) {
            // -1 keeps empty words at the end, so that their number can be compared with that of `args`
            var words = typed == null ? List.<String>of() : List.of(typed.split("\037", -1));
            int own = Math.max(1, words.size() - args.size());
            // an installed command passes on one word; other arguments are from a ./jbang that started our parent
            boolean isOurs = words.size() == 1
                    || words.size() > args.size() && words.subList(own, words.size()).equals(args);
            if (isOurs) return words.stream().limit(own).map(Text::shell).collect(joining(" "));
            boolean isJar = classPath.endsWith(".jar") && !classPath.contains(File.pathSeparator);
            if (isJar) return "java -jar " + Text.shell(classPath);
            return isInFolder ? "jbang DifyExec.java" : "difyexec";
        }

        /// Reads the file of `--env-file` instead of `.env`. This comes before anything is printed, even errors of
        /// picocli, so that the key is masked in them.
        Env with(String... args) {
            var file = typedValue("--env-file", List.of(args)).filter(name -> !name.isBlank());
            if (file.isEmpty()) return this;
            return new Env(environment, List.of(new DotEnv(Path.of(file.get()).toAbsolutePath())), invocation);
        }

        /// Returns the value of an option that is needed before picocli parses the words, or although it cannot parse
        /// them. Words after `--` are not options.
        static Optional<String> typedValue(String option, List<String> words) {
            var options = words.stream().takeWhile(word -> !word.equals("--")).toList();
            for (int at = 0; at < options.size(); at++) {
                var word = options.get(at);
                if (word.startsWith(option + "=")) return Optional.of(word.substring(option.length() + 1));
                if (word.equals(option) && at + 1 < options.size()) return Optional.of(options.get(at + 1));
            }
            return Optional.empty();
        }

        /// Returns the first setting that has a value, or whose line cannot be read. Such a line ends the search,
        /// because the user meant it to count. Blank values and placeholders do not count, because `.env.example`
        /// contains them.
        Optional<Setting> setting(String name) {
            return settings(name).filter(setting -> !setting.fault().isEmpty()
                    || !setting.text().isBlank() && !setting.text().strip().equals(PLACEHOLDER)).findFirst();
        }

        /// Returns a setting that the command needs. Rejects it if its line or file cannot be read.
        Optional<Setting> needed(String name) {
            var setting = setting(name);
            if (setting.isPresent() && !setting.get().fault().isEmpty())
                throw new Unusable(setting.get().place() + ": " + setting.get().fault(), setting.get().remedy());
            return setting;
        }

        /// Returns the value, or an empty text if there is none or it cannot be read.
        String get(String name) {
            return setting(name).map(Setting::text).orElse("");
        }

        /// Returns the first page of the documentation, which is next to the script. Returns empty for a jar, which has
        /// none. The script beside it shows that the page is ours and not that of the user's own project.
        Optional<Path> readme() {
            return files.stream().map(dotEnv -> dotEnv.file.resolveSibling("README.md").normalize()).filter(readme ->
                    Files.exists(readme) && Files.exists(readme.resolveSibling("DifyExec.java"))).findFirst();
        }

        /// Returns all settings of this name, in the order in which they count.
        private Stream<Setting> settings(String name) {
            var set = Stream.ofNullable(environment.apply(name)).map(text -> new Setting(name, text, "", "", ""));
            return Stream.concat(set, files.stream().flatMap(file -> file.setting(name).stream()));
        }

        Secret secret() {
            return new Secret(get("DIFY_API_KEY").strip());
        }

        /// Returns the message for a missing setting. A line that cannot be read may be the one that is missed:
        /// `DIFY_API_KEY is missing in .env (.env has a line that cannot be read)`.
        String missing(String name) {
            return name + " is missing" + settings(name).findFirst().map(Setting::source).orElse("")
                    + files.stream().filter(DotEnv::isMalformed).findFirst()
                            .map(file -> " (" + file.name() + " has a line that cannot be read)").orElse("");
        }

        /// Returns unknown names in `.env`, because a misspelled name of the URL would send the key to another server.
        /// It does not search the environment, where other programs may have such variables.
        List<String> unknownNames() {
            var known = Set.of("DIFY_API_KEY", "DIFY_API_BASE_URL", "DIFY_APP_ID", "DIFY_WORKFLOW_ID", "DIFY_CA_FILE");
            return files.stream().flatMap(file -> file.values().keySet().stream()
                    .filter(name -> name.startsWith("DIFY_") && !known.contains(name))
                    .map(name -> name + " in " + file.name())).sorted().toList();
        }

        /// Returns the proxy for a URL, from `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, in upper or lower case because
        /// other programs read both. `NO_PROXY` lists hosts and domains, including `.example` and `*.example`. A server
        /// on this machine never has a proxy, because `localhost` is another machine there. Java's client supports only
        /// proxies of `http`.
        Optional<URI> proxy(URI target) {
            var name = target.getScheme().equals("https") ? "HTTPS_PROXY" : "HTTP_PROXY";
            var proxy = needed(name).or(() -> needed(name.toLowerCase(Locale.ROOT)));
            var exempt = needed("NO_PROXY").or(() -> needed("no_proxy")).map(Setting::text).orElse("");
            var host = target.getHost().toLowerCase(Locale.ROOT);
            boolean isExempt = Stream.of(exempt.toLowerCase(Locale.ROOT).split(",")).map(String::strip)
                    .filter(domain -> !domain.isEmpty())
                    .anyMatch(domain -> domain.equals("*") || host.equals(domain)
                            || host.endsWith("." + domain.replaceFirst("^\\*?\\.", "")));
            if (proxy.isEmpty() || isLoopback(host) || isExempt) return Optional.empty();
            var text = proxy.get().text().strip();
            try {
                var uri = new URI(text.contains("://") ? text : "http://" + text);
                // a URI may have any port, but a socket fails at a larger one
                if (uri.getHost() != null && uri.getScheme().equals("http") && uri.getPort() <= 65_535)
                    return Optional.of(uri);
            } catch (URISyntaxException _) {
                // the value is rejected below, without the password that it may contain
            }
            throw new Unusable(proxy.get().name() + proxy.get().source()
                    + ": not a proxy address, such as http://proxy.example:3128");
        }

        /// Returns whether the host is this machine. Names are not resolved, so this machine's own host name counts as
        /// another host. In a URL, an IPv6 address is in brackets.
        static boolean isLoopback(String host) {
            return host.equalsIgnoreCase("localhost") || host.startsWith("127.") || host.equals("[::1]");
        }

        /// Reads a `.env` file when a setting is not in the environment. Only the names of its settings are ever
        /// printed, and no exception of dotenv-java, because its message quotes the line, which may contain the key.
        static final class DotEnv {
            final Path file;
            private Map<String, String> values; // null until the file is read
            private String content = "", fault = ""; // the fault of the whole file, such as its encoding
            private boolean isMalformed = false; // true if a line or the whole file cannot be read

            DotEnv(Path file) {
                this.file = file;
            }

            /// Returns `.env` for the current folder, otherwise the whole path, so that messages show which file is
            /// meant.
            String name() {
                return (file.getParent().equals(Path.of("").toAbsolutePath()) ? file.getFileName() : file).toString();
            }

            /// Returns a setting of this file. If the whole file cannot be read, every setting has that fault, because
            /// any of them may be in it.
            Optional<Setting> setting(String wanted) {
                var value = values().get(wanted);
                var source = " in " + name();
                if (value == null && hasLine(wanted)) return Optional.of(new Setting(wanted, "", source,
                        "cannot be read", "write " + wanted + "=value, without export, in UTF-8"));
                if (value == null && fault.isEmpty()) return Optional.empty();
                return Optional.of(new Setting(wanted, Objects.requireNonNullElse(value, ""), source, fault,
                        fault.isEmpty() ? "" : "save it as UTF-8 text"));
            }

            /// Returns whether the file has a line for the name that dotenv-java does not understand, such as
            /// `export DIFY_API_KEY=app-1` of a shell or `$env:DIFY_API_KEY = "app-1"` of PowerShell.
            private boolean hasLine(String wanted) {
                var line = Pattern.compile("(?m)^\\W*((export|setx?|env)\\W+)?" + wanted + "\\b");
                return isMalformed && line.matcher(content).find();
            }

            boolean isMalformed() {
                values(); // reads the file, if nobody has yet
                return isMalformed;
            }

            /// Returns the values by name, without the single quotes that dotenv-java leaves around a value. It loads
            /// the file twice. The first time, dotenv-java reports that a line is malformed, but then returns nothing.
            /// The second time, it skips such lines, which may concern other programs.
            Map<String, String> values() {
                if (values != null) return values;
                values = new HashMap<>();
                if (!Files.isRegularFile(file)) return values; // most folders have none
                var loader = Dotenv.configure().directory(file.getParent().toString())
                        .filename(file.getFileName().toString());
                try {
                    content = Files.readString(file);
                    try {
                        loader.load();
                    } catch (DotenvException _) {
                        isMalformed = true;
                    }
                    // without the filter, the variables of the environment would be among them
                    loader.ignoreIfMalformed().load().entries(Dotenv.Filter.DECLARED_IN_ENV_FILE).forEach(entry ->
                            values.put(entry.getKey(), entry.getValue().strip().replaceFirst("^'(.*)'$", "$1")));
                } catch (IOException | DotenvException _) {
                    isMalformed = true;
                    fault = "the file cannot be read";
                }
                return values;
            }
        }
    }

    /// Holds the terminal at a standard stream. JLine finds it, and takes 0.2 s to load.
    record Screen(TerminalProvider provider, SystemStream stream) {
        /// Returns the terminal of standard input (0), output (1) or error (2), if it is one.
        static Optional<Screen> on(int descriptor) {
            if (!mayBeTerminal(descriptor)) return Optional.empty();
            try {
                // ffm: native calls through Java; the start sets another one if Java does not permit those
                var provider = TerminalProvider.load(System.getProperty("org.jline.terminal.provider", "ffm"));
                var stream = SystemStream.values()[descriptor];
                return provider.isSystemStream(stream) ? Optional.of(new Screen(provider, stream)) : Optional.empty();
            } catch (IOException _) {
                return Optional.empty(); // as for a file: plain lines work everywhere
            }
        }

        /// Returns false for files and most pipes, so that JLine is not loaded for them.
        private static boolean mayBeTerminal(int descriptor) {
            try {
                return Path.of("/dev/fd/" + descriptor).toRealPath().startsWith("/dev");
            } catch (IOException _) { // a pipe on Linux has no path; Windows has no such folder
                return !Files.isDirectory(Path.of("/dev/fd"));
            }
        }

        /// Returns the number of columns, or 80 if the terminal does not report it. Some report 0.
        int width() {
            int columns = provider.systemStreamWidth(stream);
            return columns > 20 ? columns : 80;
        }
    }

    /// Configures Jackson for the whole program. Responses and cells are a user's data, so numbers keep all their
    /// digits, and texts may have any length.
    static final class Json {
        private static final JsonFactory FACTORY = JsonFactory.builder()
                .disable(JsonFactory.Feature.INTERN_FIELD_NAMES) // outputs may have any number of names
                .recyclerPool(JsonRecyclerPools.newBoundedPool(256)) // one per virtual thread would be one per row
                // a limit for numbers, because the time to read one grows faster than its length
                .streamReadConstraints(StreamReadConstraints.builder().maxStringLength(Integer.MAX_VALUE)
                        .maxNumberLength(1_000_000).build())
                .enable(JsonReadFeature.ALLOW_NON_NUMERIC_NUMBERS) // Python writes NaN
                .build();

        /// Reads and writes values and records. The log, the results and Dify write names such as `total_tokens`. A
        /// null text becomes empty, so that texts of a record are never null. `1.50` stays `1.50`.
        static final JsonMapper MAPPER = JsonMapper.builder(FACTORY)
                .propertyNamingStrategy(PropertyNamingStrategies.SNAKE_CASE)
                .enable(DeserializationFeature.USE_BIG_DECIMAL_FOR_FLOATS)
                .disable(JsonNodeFeature.STRIP_TRAILING_BIGDECIMAL_ZEROES)
                .withConfigOverride(String.class, text ->
                        text.setSetterInfo(JsonSetter.Value.forValueNulls(Nulls.AS_EMPTY)))
                .addModule(new SimpleModule().addSerializer(Instant.class, new ToStringSerializerBase(Instant.class) {
                    @Override
                    public String valueToString(Object time) {
                        return Times.text((Instant) time);
                    }
                })).build();
        /// Accepts only what RFC 8259 allows. A cell is sent to Dify as JSON only if Dify can read it.
        private static final ObjectReader STRICT = MAPPER.reader()
                .with(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
                .without(JsonReadFeature.ALLOW_NON_NUMERIC_NUMBERS);

        /// Writes `1E+2` as `100` where Jackson can.
        private static final ObjectWriter WRITER = MAPPER.writer().with(StreamWriteFeature.WRITE_BIGDECIMAL_AS_PLAIN);
        /// Matches half of a surrogate pair only, because a pattern takes a whole pair as one character.
        private static final Pattern LONE_SURROGATE = Pattern.compile("[\\uD800-\\uDFFF]");
        private static final String REPLACEMENT = "\uFFFD";

        /// Returns an object with its fields in this order, for example `object("count", 3, "ids", List.of("r-1"))`.
        static Map<String, Object> object(Object... namesAndValues) {
            var object = new LinkedHashMap<String, Object>();
            for (int i = 0; i < namesAndValues.length; i += 2)
                object.put((String) namesAndValues[i], namesAndValues[i + 1]);
            return object;
        }

        /// Returns JSON in one line.
        static String text(Object value) {
            try {
                return WRITER.writeValueAsString(value);
            } catch (JsonProcessingException _) { // Jackson does not write an exponent beyond 9,999 as digits
                return MAPPER.valueToTree(value).toString();
            }
        }

        /// Returns JSON as UTF-8, which has no half of a surrogate pair. Java would write `?` for it.
        static byte[] bytes(Object value) {
            return wellFormed(text(value)).getBytes(UTF_8);
        }

        /// Returns a generator that accepts half of a surrogate pair, at which Jackson's own UTF-8 output fails. JSON
        /// can contain such a half, but UTF-8 cannot.
        static JsonGenerator generator(OutputStream out) {
            try {
                return FACTORY.createGenerator(utf8(out));
            } catch (IOException problem) {
                throw new UncheckedIOException(problem); // cannot happen, because nothing is written yet
            }
        }

        /// Returns a writer of UTF-8 that replaces half of a surrogate pair with U+FFFD.
        static Writer utf8(OutputStream out) {
            return new OutputStreamWriter(out, UTF_8.newEncoder().onMalformedInput(CodingErrorAction.REPLACE)
                    .replaceWith(REPLACEMENT.getBytes(UTF_8)));
        }

        /// Parses exactly one value, as strictly as RFC 8259, or returns a missing node if the text is anything else.
        static JsonNode parse(String text) {
            try {
                return STRICT.readTree(text);
            } catch (JsonProcessingException | NumberFormatException _) { // the latter for 1e9999999999
                return MAPPER.missingNode();
            }
        }

        /// Returns a parser for text that is read part by part, as strict as [#parse]. If an object has a key twice,
        /// that is an error, because one of the two values would be lost.
        static JsonParser parser(Reader text) throws IOException {
            return STRICT.with(StreamReadFeature.STRICT_DUPLICATE_DETECTION).createParser(text);
        }

        /// Returns whether the value contains, at any depth, a text or a field's name that passes the test. Jackson
        /// limits the depth, so this cannot overflow the stack.
        static boolean hasText(JsonNode value, Predicate<String> which) {
            return value.isTextual() && which.test(value.textValue())
                    || value.properties().stream().map(Map.Entry::getKey).anyMatch(which)
                    || value.valueStream().anyMatch(inner -> hasText(inner, which));
        }

        /// Replaces each half of a surrogate pair with U+FFFD.
        static String wellFormed(String text) {
            return LONE_SURROGATE.matcher(text).replaceAll(REPLACEMENT);
        }
    }

    /// Formats and reads times in UTC, to the millisecond: `2026-01-16T12:00:00.123Z`.
    static final class Times {
        /// Returns a clock that never goes back. If the system clock is set back, it adds the elapsed time to the
        /// start, so that no planned start is delayed. If the system clock is ahead, because it was set forward or the
        /// computer slept, that time counts.
        static InstantSource neverBack(InstantSource time, LongSupplier nanos) {
            var start = time.instant();
            long first = nanos.getAsLong();
            return () -> {
                var now = time.instant();
                var passed = start.plusNanos(nanos.getAsLong() - first);
                return now.isBefore(passed) ? passed : now;
            };
        }

        /// Formats a time for files. A whole second has no milliseconds: `2026-01-16T12:00:00Z`.
        static String text(Instant time) {
            return time.truncatedTo(ChronoUnit.MILLIS).toString();
        }

        /// Formats a time in this machine's time zone: `2026-01-16 13:00:00 +01:00`.
        static String local(Instant time) {
            return local("yyyy-MM-dd HH:mm:ss xxx", time);
        }

        /// Formats a time in this machine's time zone, but in no locale, because some have digits of their own.
        static String local(String pattern, Instant time) {
            return DateTimeFormatter.ofPattern(pattern, Locale.ROOT).withZone(ZoneId.systemDefault()).format(time);
        }

        /// Reads a time in ISO format. It reads our own form digit by digit, because a long log has a million of such
        /// times.
        static Instant parse(String text) {
            if (text.length() != 24 || text.charAt(10) != 'T' || text.charAt(19) != '.' || text.charAt(23) != 'Z')
                return Instant.parse(text); // for example from another program, or without milliseconds
            // no other ISO form has this length and these marks, so the rest of the marks need no check
            long day = LocalDate.of(digits(text, 0, 4), digits(text, 5, 7), digits(text, 8, 10)).toEpochDay();
            int second = LocalTime.of(digits(text, 11, 13), digits(text, 14, 16), digits(text, 17, 19)).toSecondOfDay();
            return Instant.ofEpochSecond(day * 86_400 + second, digits(text, 20, 23) * 1_000_000L);
        }

        private static int digits(String text, int from, int to) {
            return Integer.parseInt(text, from, to, 10);
        }
    }

    /// Identifies one of the `count` parts of a batch, numbered from 1. The hash of a row's id decides which part the
    /// row belongs to, so the row stays there when other rows are added or removed.
    record Shard(int index, int count) {
        /// Match `3/8` as typed, and the name of a file such as `results.3-of-8.jsonl`. Five digits fit into an int.
        private static final Pattern TYPED = Pattern.compile("(\\d{1,5})/(\\d{1,5})"),
                NAMED = Pattern.compile("(.+)\\.(\\d{1,5})-of-(\\d{1,5})(\\.[^.]*)?");

        static Shard parse(String text) {
            var typed = TYPED.matcher(text.strip());
            var shard = typed.matches() ? of(typed.group(1), typed.group(2)) : Optional.<Shard>empty();
            return shard.orElseThrow(() -> new Unusable("--shard " + Text.printable(text, 60)
                    + ": must be I/N, such as 3/8, with I from 1 to N"));
        }

        /// Returns empty if there is no such shard, such as 9 of 8.
        private static Optional<Shard> of(String index, String count) {
            var shard = new Shard(Integer.parseInt(index), Integer.parseInt(count));
            boolean exists = shard.index >= 1 && shard.index <= shard.count;
            return exists ? Optional.of(shard) : Optional.empty();
        }

        /// Returns the shard that a file is named after.
        static Optional<Shard> in(Path file) {
            var name = NAMED.matcher(file.getFileName().toString());
            return name.matches() ? of(name.group(2), name.group(3)) : Optional.empty();
        }

        /// Returns the file of the whole batch: `results.jsonl` for `results.3-of-8.jsonl`.
        static Path wholeFile(Path file) {
            return file.resolveSibling(NAMED.matcher(file.getFileName().toString()).replaceFirst("$1$4"));
        }

        /// Returns `results.3-of-8.jsonl` for `results.jsonl`, and a file that already has that name unchanged. Another
        /// shard's file is rejected, because it would get rows that `merge` does not expect there.
        Path of(Path output) {
            var named = in(output);
            if (named.isPresent() && !named.get().equals(this))
                throw new Unusable(output + " is named after shard " + named.get() + ", not " + this);
            if (named.isPresent()) return output;
            var name = output.getFileName().toString();
            // the dot of a hidden file such as .results is not the start of an ending
            int end = name.lastIndexOf('.') > 0 ? name.lastIndexOf('.') : name.length();
            return output.resolveSibling(name.substring(0, end) + "." + index + "-of-" + count + name.substring(end));
        }

        boolean holds(String id) {
            return of(id, count).index == index;
        }

        /// Returns the shard of a row. A hash spreads the rows evenly, and every machine computes the same one. Its
        /// first eight bytes are enough for that.
        static Shard of(String id, int count) {
            var hash = ByteBuffer.wrap(Fingerprint.sha256().digest(id.getBytes(UTF_8)));
            return new Shard((int) Long.remainderUnsigned(hash.getLong(), count) + 1, count);
        }

        @Override
        public String toString() {
            return index + "/" + count;
        }
    }

    /// Writes a CSV (RFC 4180). Quotes go around any cell that a reader could split or strip. That includes cells with
    /// a delimiter that this file does not use, because some spreadsheets split cells at any of them.
    static final class CellWriter extends CSVWriter {
        CellWriter(Writer out, char delimiter) {
            // the default escape is a quote, so a quote within a cell is doubled, as the RFC requires
            super(new BufferedWriter(out), delimiter, DEFAULT_QUOTE_CHARACTER, DEFAULT_ESCAPE_CHARACTER, "\r\n");
        }

        /// Writes one row. The library's simpler `writeNext` swallows exceptions, so a full disk would go unnoticed.
        void write(Collection<String> cells) throws IOException {
            boolean areAllQuoted = false; // only those that need it, see below
            writeNext(cells.toArray(String[]::new), areAllQuoted, new StringBuilder());
        }

        /// Decides which cells have quotes. The separator may also be another character than those in the list.
        @Override
        protected boolean stringContainsSpecialCharacters(String cell) {
            for (int i = 0; i < cell.length(); i++)
                if ("\"\r\n,;\t".indexOf(cell.charAt(i)) >= 0 || cell.charAt(i) == separator) return true;
            return !cell.strip().equals(cell);
        }
    }

    /// Wraps file operations so that errors are not lost. After an error, `Files.exists` returns false, so that a batch
    /// whose disk fails would start from scratch, and a channel's error does not contain the file's name. Here a file
    /// is missing only if the system reports that it is, and every error contains the name.
    static final class Storage {

        /// Returns whether the file exists. Returns true if that is unknown, so that the next call on the file reports
        /// the error.
        static boolean exists(Path path, LinkOption... links) {
            return !Files.notExists(path, links);
        }

        static BasicFileAttributes attributes(Path path, LinkOption... links) {
            return naming(path, () -> Files.readAttributes(path, BasicFileAttributes.class, links));
        }

        static List<Path> list(Path folder) {
            return naming(folder, () -> {
                try (var files = Files.newDirectoryStream(folder)) {
                    return StreamSupport.stream(files.spliterator(), false).toList();
                } catch (DirectoryIteratorException problem) {
                    throw problem.getCause(); // the error itself, which the stream cannot throw
                }
            });
        }

        /// Returns whether both paths lead to one file, for example by a link. If one does not exist yet, it compares
        /// their folders and names.
        static boolean isSame(Path one, Path other) {
            return naming(one, () -> exists(one) && exists(other) ? Files.isSameFile(one, other)
                    : one.getFileName().equals(other.getFileName()) && Files.isSameFile(
                            one.toAbsolutePath().getParent(), other.toAbsolutePath().getParent()));
        }

        static void close(Path path, Closeable file) {
            naming(path, () -> {
                file.close();
                return file; // the result is not used
            });
        }

        /// Runs an action. If it fails, the error contains the name of its file. For a temporary file, that is the name
        /// of the file that it becomes, because the user knows no other. An error that already contains a name keeps
        /// it, because a folder or another file may be at fault.
        static <T> T naming(Path path, IOSupplier<T> action) {
            try {
                return action.get();
            } catch (IOException problem) {
                var file = problem instanceof FileSystemException known ? String.valueOf(known.getFile()) : "";
                boolean isNamed = !(file + Text.reason(problem)).contains(Temporary.HIDDEN)
                        && (!file.isEmpty() || Text.reason(problem).contains(path.toString()));
                var named = isNamed ? problem
                        : new IOException(path + ": " + Text.reason(problem).replace(file + ": ", ""), problem);
                throw new UncheckedIOException(Text.reason(named), named);
            }
        }
    }

    /// Holds a file under a temporary name. Its lock shows that a process uses it, so that the next start removes only
    /// what a killed process left.
    record Temporary(Path path, FileChannel channel) implements AutoCloseable {
        static final String HIDDEN = ".difyexec-"; // file managers and ls hide names that begin with a dot
        /// Identifies this process. A process id would not do, because another machine may write to the same folder.
        private static final String PROCESS = UUID.randomUUID().toString();
        /// Matches the two ids in the name. Only a file with a complete name of ours is ever removed.
        private static final String NAME = "([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}[-.]){2}tmp";

        /// Creates the file and locks it. Until the lock is granted, another process may take the new file for an
        /// abandoned one and remove it. Then another file is created, up to five in all. The fifth is used in any case,
        /// because some file systems never grant the lock.
        static Temporary of(Path folder, String prefix) throws IOException {
            for (int tries = 1; ; tries++) {
                var path = folder.resolve(prefix + PROCESS + "-" + UUID.randomUUID() + ".tmp");
                var channel = FileChannel.open(path, StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE);
                boolean isOurs = channel.tryLock() != null && Storage.exists(path);
                if (isOurs || tries == 5) return new Temporary(path, channel);
                channel.close();
            }
        }

        /// Removes abandoned files that begin with `prefix`, except those of this process, because closing a second
        /// channel would release their locks. Only one thread does this, because a process cannot lock a file twice.
        static synchronized void removeAbandoned(Path folder, String prefix) {
            for (var path : Storage.list(folder)) {
                var name = path.getFileName().toString();
                if (!name.matches(Pattern.quote(prefix) + NAME) || name.startsWith(prefix + PROCESS)
                        || !Files.isRegularFile(path, LinkOption.NOFOLLOW_LINKS)) continue;
                try (var channel = FileChannel.open(path, StandardOpenOption.WRITE)) {
                    if (channel.tryLock() != null) Files.deleteIfExists(path);
                } catch (IOException _) {
                    // another process has removed the file, or it belongs to another user
                }
            }
        }

        /// Removes the file, unless it has been renamed, and then releases its lock. In the other order, another
        /// process could take it for abandoned.
        @Override
        public void close() throws IOException {
            try (channel) {
                Files.deleteIfExists(path);
            }
        }
    }

    /// Uses a value, for example a stream, which it leaves open. Java's own interfaces of this kind allow no
    /// IOException.
    interface IOConsumer<T> {
        void accept(T value) throws IOException;
    }

    interface IOSupplier<T> {
        T get() throws IOException;
    }

    interface IOFunction<T, R> {
        R apply(T value) throws IOException;
    }

    /// Writes a file that appears whole or not at all. The file gets a temporary name in the same folder, because a
    /// rename cannot move it to another disk. It is written to disk and then renamed.
    static final class AtomicFile {
        /// Writes a file that a user asked for. Those of a batch use [#replace], because the batch removes what is
        /// abandoned once, when it is locked.
        static void write(Path file, IOConsumer<OutputStream> content) {
            removeAbandoned(file);
            replace(file, content);
        }

        /// Replaces a file and keeps its permissions, so that a private file does not become public. The order matters:
        /// permissions come before the content, and the content is on disk before the rename. Otherwise a power cut
        /// could leave an empty file under the name. Whatever the content is, the key does not get into the file.
        static void replace(Path file, IOConsumer<OutputStream> content) {
            Storage.naming(file, () -> {
                try (var temporary = Temporary.of(file.toAbsolutePath().getParent(), prefix(file))) {
                    if (Storage.exists(file) && file.getFileSystem().supportedFileAttributeViews().contains("posix"))
                        Files.setPosixFilePermissions(temporary.path(), Files.getPosixFilePermissions(file));
                    var masking = Secret.current().masking(Channels.newOutputStream(temporary.channel()));
                    content.accept(masking);
                    masking.flush(); // not closed, because the channel is still needed
                    force(file, temporary.channel());
                    Files.move(temporary.path(), file, StandardCopyOption.ATOMIC_MOVE,
                            StandardCopyOption.REPLACE_EXISTING);
                }
                forceFolder(file);
                return file;
            });
        }

        /// Returns how the names of temporary files for `file` begin. They contain a hash of its name, because a long
        /// name and the ids together would exceed the limit of 255 bytes.
        static String prefix(Path file) {
            return Temporary.HIDDEN + "%08x-".formatted(file.getFileName().toString().hashCode());
        }

        /// Removes temporary files of a process that was killed while it wrote `file`.
        static void removeAbandoned(Path file) {
            Temporary.removeAbandoned(file.toAbsolutePath().getParent(), prefix(file));
        }

        /// Writes the folder to disk, so that a file that was created or renamed in it survives a power cut.
        static void forceFolder(Path file) throws IOException {
            var folder = file.toAbsolutePath().getParent();
            try (var channel = FileChannel.open(folder)) {
                force(folder, channel);
            } catch (NotForced problem) {
                throw problem;
            } catch (IOException _) {
                // Windows cannot open a folder; the file itself is on disk
            }
        }

        /// Writes a file or folder to disk. If its file system cannot do so, that is no error, because otherwise no
        /// batch could run there.
        static void force(Path path, FileChannel channel) throws IOException {
            try {
                channel.force(true); // with its length and times
            } catch (IOException problem) {
                if (!cannotForce(problem)) throw new NotForced(path, problem);
            }
        }

        /// Means that the disk failed, and what was lost is unknown. Another try would not show the loss, because the
        /// system reports it only once. So nobody tries again.
        static final class NotForced extends IOException {
            NotForced(Path path, IOException problem) {
                super(path + ": " + Text.reason(problem), problem);
            }
        }

        /// Returns whether the error is EINVAL or ENOTSUP, which some network mounts report for every file. Java has no
        /// code for them, only the system's text.
        static boolean cannotForce(IOException problem) {
            return Set.of("Invalid argument", "Operation not supported").contains(String.valueOf(problem.getMessage()));
        }
    }

    /// Identifies a row's content by a SHA-256 over its names and cells, each after its length. Without the lengths, a
    /// text that moves to the next cell would change nothing. The order of the columns does not matter, because Dify
    /// gets the values by name.
    static final class Fingerprint {
        /// Returns the first eight bytes. They are enough, because a row is compared only with its own earlier content.
        static long of(Map<String, String> inputs) {
            var digest = sha256();
            new TreeMap<>(inputs).forEach((name, cell) -> {
                for (var text : List.of(name, cell)) {
                    var bytes = text.getBytes(UTF_8);
                    digest.update(ByteBuffer.allocate(Integer.BYTES).putInt(0, bytes.length)); // read from index 0
                    digest.update(bytes);
                }
            });
            return ByteBuffer.wrap(digest.digest()).getLong();
        }

        static MessageDigest sha256() {
            try {
                return MessageDigest.getInstance("SHA-256");
            } catch (NoSuchAlgorithmException problem) {
                throw new IllegalStateException(problem); // every Java has SHA-256
            }
        }
    }

    /// Holds numbers by index, 0 if not set. It adds blocks and never copies them, because a growing array would take
    /// its memory twice during the copy.
    static final class LongList {
        private static final int BLOCK = 1 << 12; // numbers, or 32 KB, the most that a short list wastes

        private final List<long[]> blocks = new ArrayList<>();
        private int size = 0;

        int size() {
            return size;
        }

        /// Returns a number, or 0 beyond the end, so that nobody needs to fill up a list.
        long get(long place) {
            return place < size ? blocks.get((int) (place / BLOCK))[(int) (place % BLOCK)] : 0;
        }

        void set(int place, long number) {
            while (blocks.size() * BLOCK <= place) blocks.add(new long[BLOCK]);
            blocks.get(place / BLOCK)[place % BLOCK] = number;
            size = Math.max(size, place + 1);
        }

        void add(long number) {
            set(size, number);
        }
    }

    /// Finds the word that the user most likely meant, if one is near enough for a typing error.
    static final class Nearest {
        private static final Pattern MARKS = Pattern.compile("[\\s_-]"); // people mix up Body-Text and body_text

        /// Allows one wrong letter in four, and always one. With more, a short word would resemble most others.
        static Optional<String> of(String word, List<String> words) {
            return of(word, words.stream(), Math.max(1, word.length() / 4), 1).stream().findFirst();
        }

        /// Returns the end of a message, or an empty text if no word is near.
        static String hint(String word, List<String> words) {
            return of(word, words).map(near -> "; did you mean " + Text.quoted(near) + "?").orElse("");
        }

        /// Returns the words that differ in at most `maxDistance` letters, the nearest first, and at most `maxWords`.
        static List<String> of(String word, Stream<String> words, int maxDistance, int maxWords) {
            var wanted = plain(word);
            var distance = new LevenshteinDistance(maxDistance);
            var near = new LinkedHashMap<String, Integer>();
            words.forEach(other -> {
                int letters = distance.apply(wanted, plain(other)); // -1 if more letters differ
                if (letters >= 0) near.put(other, letters);
            });
            return near.entrySet().stream().sorted(Map.Entry.comparingByValue()).limit(maxWords)
                    .map(Map.Entry::getKey).toList();
        }

        /// Returns whether a column may be meant for a variable. Either they differ only in case and marks, or one
        /// begins with the other, or both have five letters or more and differ in at most two. In a shorter name, two
        /// letters are too much of it. The result is only a suggestion of `--map`, so the user decides.
        static boolean isClose(String column, String variable) {
            var one = plain(column);
            var other = plain(variable);
            if (one.isEmpty() || other.isEmpty()) return false;
            if (one.startsWith(other) || other.startsWith(one)) return true;
            return Math.min(one.length(), other.length()) >= 5 && new LevenshteinDistance(2).apply(one, other) >= 0;
        }

        private static String plain(String word) {
            return MARKS.matcher(word.toLowerCase(Locale.ROOT)).replaceAll("");
        }
    }

    /// Formats text for people, without control characters, with bounded length, and the same in every locale.
    static final class Text {
        /// Limits errors in the log, in characters, because a server's error may be a whole page. Most fit whole.
        static final int MAX_ERROR_LENGTH = 500;
        /// Matches control characters, marks of direction and line breaks, because they change what a terminal shows. A
        /// response could otherwise make its text look like one of ours.
        private static final Pattern CONTROL = Pattern.compile("[\\p{Cc}\\p{Cf}\\p{Zl}\\p{Zp}]");
        /// Matches the class name that Java puts before the message of a cause.
        private static final Pattern JAVA_NAME = Pattern.compile(
                "\\b(?:[a-z]\\w*\\.)+[A-Z]\\w*(?:Exception|Error)\\b:?\\s*");

        /// Returns a text that is safe to show, cut to `longest` characters. Only the part that is left is searched,
        /// because a response may have many megabytes.
        static String printable(String text, int longest) {
            var cut = cut(text, longest);
            return Json.wellFormed(CONTROL.matcher(cut).replaceAll(" ")) + (cut.length() < text.length() ? "…" : "");
        }

        /// Shortens a text to whole words, with a `…` at the end. If not even the first word fits, only `…` is left.
        static String cutAtWord(String text, int longest) {
            if (text.length() <= longest) return text;
            int end = text.lastIndexOf(' ', longest - 1);
            return text.substring(0, Math.max(0, end)) + "…";
        }

        /// Cuts a text to `longest` characters, or one fewer so as not to cut a surrogate pair in half.
        static String cut(String text, int longest) {
            if (text.length() <= longest) return text;
            return text.substring(0, Character.isHighSurrogate(text.charAt(longest - 1)) ? longest - 1 : longest);
        }

        /// Matches UUIDs, durations, and words with digits, such as ids and dates. It does not match single digits, nor
        /// 400 to 599, which are mostly HTTP statuses and distinguish causes.
        private static final Pattern PARTICULAR = Pattern.compile("(?<!\\w)(?:[0-9a-fA-F]{8}-[0-9a-fA-F-]{20,}"
                + "|\\d+(?:\\.\\d+)? ?(?:ms|s|min|h)\\b(?: \\d+ (?:s|min)\\b)?"
                + "|(?!(?:\\d|[45]\\d\\d)(?!\\w|[-.,:/]\\w*\\d))[A-Za-z_]*\\d\\w*(?:[-.,:/+]\\w*\\d\\w*)*)");

        /// Returns an error message without the ids, times and numbers that differ from row to row, to group rows by
        /// it. The message is first cut as it is in the log, so that it gives the same cause before and after it was
        /// written. The cause is cut to about two lines of a terminal.
        static String cause(String message) {
            return printable(PARTICULAR.matcher(printable(message, MAX_ERROR_LENGTH)).replaceAll("…"), 160);
        }

        /// Returns a row's id for a message. An id may be a whole cell, but the rest of the line must stay readable.
        static String id(String id) {
            return printable(id, 60);
        }

        /// Prints the first `most` items, then how many more there are, for example `… and 12 more causes`.
        ///
        /// @param more the format of the last line, such as `%s causes`
        static <T> void printFirst(List<T> all, long most, Consumer<T> show, String more, PrintWriter out) {
            all.stream().limit(most).forEach(show);
            if (all.size() > most) out.println(more.formatted("… and " + (all.size() - most) + " more"));
        }

        /// Joins the first texts, and shows with `…` that there are more: `r-1, r-2, …`.
        static String joinFirst(int most, Stream<String> all) {
            var some = all.limit(most + 1).toList(); // one more shows that there are more, and the rest is not needed
            return some.size() > most ? String.join(", ", some.subList(0, most)) + ", …" : String.join(", ", some);
        }

        /// Quotes a name or a value in a message. Its quotes are not escaped, because only people read it.
        static String quoted(String text) {
            return '"' + printable(text, 60) + '"';
        }

        /// Returns why something failed, in words for people. Java's own messages come after the known cases, because
        /// they are only a file's name, are missing, or contain names of classes.
        static String reason(Throwable problem) {
            var message = problem.getMessage();
            if (problem instanceof AccessDeniedException) return "permission denied: " + message;
            if (problem instanceof NoSuchFileException) return "no such file: " + message;
            for (var cause = problem; cause != null; cause = cause.getCause()) // Java wraps it in a ConnectException
                if (cause instanceof UnresolvedAddressException || cause instanceof UnknownHostException)
                    return "unknown host";
            var plain = message == null ? "" : printable(JAVA_NAME.matcher(message).replaceAll(""), 300);
            if (!plain.isBlank()) return plain;
            if (problem instanceof ConnectException) return "connection refused";
            if (problem.getCause() != null) return reason(problem.getCause());
            // without any message, the name of the exception is the only clue, here as words: closed channel
            return problem.getClass().getSimpleName().replaceFirst("(Exception|Error)$", "")
                    .replaceAll("(?<=[a-z])(?=[A-Z])", " ").toLowerCase(Locale.ROOT);
        }

        /// Formats a duration in at most two units: `0.4 s`, `119 s`, `3 min 5 s`, `2 h 10 min`. Less than two minutes
        /// are shown in seconds, and less than two hours in minutes, which is shorter.
        static String seconds(Duration time) {
            long whole = time.toSeconds();
            if (whole < 10) return String.format(Locale.ROOT, "%.1f s", time.toMillis() / 1000.0);
            if (whole < 120) return whole + " s";
            if (whole < 7200) return whole / 60 + " min " + whole % 60 + " s";
            return whole / 3600 + " h " + whole % 3600 / 60 + " min";
        }

        /// Groups the digits of a large number: `1,234,567`.
        static String number(long number) {
            return String.format(Locale.ROOT, "%,d", number);
        }

        /// Returns a number with its noun: `1 row`, `2 rows`.
        static String count(long count, String one) {
            return count(count, one, one + "s");
        }

        /// Returns a number with a noun whose plural has no plain `s`, such as `retries`.
        static String count(long count, String one, String many) {
            return count + " " + (count == 1 ? one : many);
        }

        /// Returns the words that run a command line in the system's own shell. Only Windows separates folders with a
        /// backslash.
        static List<String> command(String line) {
            return File.separatorChar == '\\' ? List.of("cmd", "/c", line) : List.of("sh", "-c", line);
        }

        /// Quotes a word so that a user can paste it into a shell. Most words need no quotes and are easier to read
        /// without them. Line breaks and tabs are safe inside the quotes, and a cell may need them.
        static String shell(String word) {
            if (word.matches("[\\p{L}\\p{N}_./:@%+=,-]+")) return word;
            var harmless = word.replaceAll("(?![\n\t])" + CONTROL, "\uFFFD"); // others could act on the terminal
            // a shell ends the quoted text, reads the escaped quote, and starts another quoted text
            return "'" + harmless.replace("'", "'\\''") + "'";
        }
    }

    // ── Page ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Holds the page of `status --html` and `compare --html`. The page is one file that loads nothing, so that it can
    /// be sent to a colleague and opened offline. Its script draws everything from JSON that follows the body, for two
    /// reasons. A browser would need too long for the HTML of 100,000 rows, and a value that a script adds as text
    /// cannot become markup. Comments in the texts below are part of the page.
    static final class Html {
        /// Begins a page. Its placeholders are the hashes of style and script, the version, and the style. The
        /// policy allows nothing but this style and script, so that nothing in a value can load or run. The generator
        /// shows that difyexec wrote the file, so that the next page may overwrite it.
        static final String HEAD = """
        <!doctype html>
        <html lang="en">
        <head>
        <meta charset="utf-8">
        <meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src '%s'; \
        script-src '%s'; base-uri 'none'; form-action 'none'">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <meta name="generator" content="difyexec %s">
        <title>difyexec</title>
        <style>%s</style>
        </head>
        """;

        /// Holds the parts of both pages. The script fills those with an id and hides what a page does not need.
        /// Attributes that begin with `aria-` and `caption` are for screen readers.
        static final String BODY = """
        <body>
        <header><h1 id="title"></h1><p id="about"></p></header>
        <main>
        <div id="overview"></div>
        <section id="charts"></section>
        <section class="card" id="rows">
        <h2>Rows</h2>
        <div class="tools">
        <input id="search" type="search" autocomplete="off" placeholder="Search" aria-label="Search">
        <select id="outcome" aria-label="Outcome"><option value="">all rows</option></select>
        <select id="cause" aria-label="Cause"><option value="">all causes</option></select>
        <button type="button" id="download">Download CSV</button>
        <output id="count" aria-live="polite"></output>
        </div>
        <table id="table"><caption>Rows</caption><thead><tr id="heads"></tr></thead><tbody id="body"></tbody></table>
        <p id="none" hidden>No rows match. <button type="button" id="reset">Show all rows</button></p>
        <p><button type="button" id="more"></button></p>
        <p id="left"></p>
        </section>
        </main>
        <dialog id="detail" aria-labelledby="detail-id">
        <div class="bar">
        <h2 id="detail-id"></h2>
        <button type="button" id="before">Previous</button>
        <button type="button" id="after">Next</button>
        <button type="button" id="close">Close</button>
        </div>
        <div id="detail-body"></div>
        </dialog>
        """;

        /// Sets the look of both pages. A class that is named after an outcome only sets a hue, which chips, bars and
        /// marks then use. Lengths in `rem` grow with the reader's font.
        static final String STYLE = """
        :root { color-scheme: light dark; --back: light-dark(#f6f6f4, #131518); /* as the reader's system */
          --card: light-dark(#fff, #1b1e22); --ink: light-dark(#1d2024, #e7e9ec);
          --soft: light-dark(#5c636c, #a0a8b1); --line: light-dark(#dfe1e4, #31363c);
          --accent: light-dark(#1f57b5, #86b3ff); }
        .first, .only { --hue: light-dark(#3c6fc4, #7aa7f5); }
        .second { --hue: light-dark(#b0561b, #e8955c); }
        .succeeded, .same, .correct, ins { --hue: light-dark(#2c7a4b, #56b97f); }
        .partial, .different, .unstable { --hue: light-dark(#9a6200, #dca03c); }
        .failed, .neither, .missed, .no, del { --hue: light-dark(#bc3226, #f27a71); }
        .paused { --hue: light-dark(#0b6e80, #4cb9cc); }
        .unknown { --hue: light-dark(#7446ad, #b99af0); }
        .pending, .judged { --hue: light-dark(#6d747c, #949ca5); }

        * { box-sizing: border-box; }
        body { margin: 0 auto; max-width: 75rem; padding: 1.5rem 1.25rem 3rem; background: var(--back);
          color: var(--ink); font: 15px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
        main { display: flex; flex-direction: column; } /* so that a phone can have another order */
        h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; }
        h2 { margin: 0 0 .6rem; font-size: 1rem; }
        div + h2 { margin-top: 1.2rem; }
        header p { margin: .2rem 0 1.2rem; }
        header p, small, dt, th, .ids, #count, .cut { color: var(--soft); }
        dt, th, .cut { font-size: .85rem; font-weight: 500; }
        h1, p, dd, .bar h2, dt, pre { overflow-wrap: anywhere; } /* values may be long and without spaces */
        main .listed td { min-width: 4.5rem; overflow-wrap: anywhere; } /* short ids do not break */
        td, th, pre { unicode-bidi: isolate; } /* a text from right to left does not reorder its neighbours */
        dd, pre { margin: 0; }
        .card { margin: 0 0 1rem; padding: 1rem 1.1rem; border-radius: 8px; }
        .card, dialog, input, select, button { background: var(--card); border: 1px solid var(--line); }
        .chip { color: var(--hue); }
        .chip::before { content: ""; display: inline-block; width: .6rem; height: .6rem; margin-right: .4rem;
          border-radius: 50%; background: var(--hue); }

        svg { display: block; width: 100%; }
        .totals svg { height: 12px; border-radius: 3px; }
        .totals ul, .totals dl, .tools { display: flex; flex-wrap: wrap; }
        .totals ul { gap: .3rem 1.6rem; margin: .7rem 0 1rem; padding: 0; list-style: none; }
        .totals dl { gap: .8rem 2.4rem; margin: 0; padding-top: .9rem; border-top: 1px solid var(--line); }
        .totals table { width: auto; }
        .totals { overflow-x: auto; } /* if its table is too wide, it scrolls and not the page */
        .totals .number { padding-left: 2rem; }
        #charts { display: grid; gap: 0 1rem;
          grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); } /* as many in a line as fit */
        figcaption { margin-bottom: .3rem; font-weight: 600; }
        figcaption h2 { display: inline; font-size: inherit; }
        dd:has(> button) pre { display: inline-block; margin-right: .6rem; } /* beside the button Copy */
        figcaption .chip { margin-left: 1rem; font-weight: 400; white-space: nowrap; }
        figure text { fill: var(--soft); font-size: 11px; }
        .grid { stroke: var(--line); }
        rect { fill: var(--hue); }

        table { width: 100%; border-collapse: collapse; text-align: left; }
        th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
        th:first-child, td:first-child { padding-left: 0; } /* in line with the heading */
        .number { text-align: right; }
        button, input, select { padding: .3rem .55rem; border-radius: 6px; max-width: 100%; font: inherit;
          color: inherit; }
        button { cursor: pointer; }
        button:disabled { opacity: .45; }
        table button { padding: 0; border: 0; background: none; text-align: inherit; } /* looks like text */
        td button { color: var(--accent); }
        .tools { gap: .5rem; align-items: center; margin-bottom: .7rem; }
        #count { margin-left: auto; } /* at the right end */
        #cause { width: 15rem; } /* otherwise as wide as its longest cause */

        caption { position: absolute; clip-path: inset(50%); } /* for screen readers; others see the heading */
        #left { display: none; } /* only paper needs it */
        #table thead { position: sticky; top: 0; background: var(--card); }
        #table th, #table td { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
        #table td { max-width: 16rem; }
        #table td:last-child { width: 100%; max-width: 0; } /* gets the room that is left, whatever its text is */
        #body tr:hover { background: color-mix(in srgb, var(--accent) 7%, transparent); cursor: pointer; }
        [aria-sort=ascending] button::after { content: " \\2191"; } /* an arrow up */
        [aria-sort=descending] button::after { content: " \\2193"; } /* an arrow down */

        dialog { width: min(60rem, calc(100vw - 2rem)); max-height: calc(100vh - 3rem);
          padding: 0 1.2rem 1.2rem; border-radius: 10px; color: var(--ink); }
        .bar { position: sticky; top: 0; display: flex; gap: .5rem; align-items: center;
          padding: 1rem 0 .7rem; background: var(--card); }
        .bar h2 { flex: 1; margin: 0; }
        h3 { margin: 1.1rem 0 .4rem; font-size: .95rem; }
        dialog dl { display: grid; grid-template-columns: minmax(6rem, 11rem) 1fr; gap: .4rem 1rem; margin: 0; }
        dialog div { overflow-x: auto; } /* around tables */
        .both { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); }
        pre { white-space: pre-wrap; font: .87rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
        ins, del { background: color-mix(in srgb, var(--hue) 18%, transparent); text-decoration: none; }

        @media (max-width: 40rem) { /* phones */
          body { padding: 1rem .75rem 2rem; font-size: 14px; }
          #charts { order: 1; } /* below the rows, which matter more */
          .wide, .ids, #table .number { display: none; } /* a row's dialog has these figures */
          .totals th, .totals td { padding: .35rem 0; font-size: .8rem; }
          .totals .number { padding-left: .5rem; }
          .tools > *, #cause { width: 100%; }
          #table th, #table td { white-space: normal; padding: .35rem .5rem .35rem 0; }
          #table td { max-width: 5.5rem; white-space: nowrap; }
          #table td:nth-child(2) { max-width: none; } /* the outcome */
          dialog dl { grid-template-columns: 1fr; }
        }
        @media print {
          :root { color-scheme: light; }
          * { print-color-adjust: exact; } /* browsers otherwise leave out the colors of bars and chips */
          body { max-width: none; padding: 0; background: none; font-size: 11px; }
          figure, tr { break-inside: avoid; }
          #charts { grid-template-columns: 1fr 1fr; }
          input, select, .tools button, dialog, .wide, #none, #more { display: none; }
          #table td:nth-child(n) { width: auto; max-width: none; white-space: normal; overflow-wrap: anywhere; }
          #table td:nth-child(-n+2) { max-width: 16rem; white-space: nowrap; } /* id, outcome; other texts are whole */
          #left { display: block; }
        }
        """;

        /// Draws both pages. It uses no library, because the page loads nothing, and no `innerHTML`, because a value
        /// must stay text.
        static final String SCRIPT = """
        'use strict';
        // rows that are drawn at a time, because a browser is slow with very many, and rows that are printed at least
        const DRAWN = 200, PRINTED = 1000;
        const at = id => document.getElementById(id);
        const batch = JSON.parse(at('batch').textContent);
        // a comparison has two sides, or checks one side against expected values
        const isComparison = 'comparison' in batch, isPair = isComparison && !batch.one;
        // all rows, and the searchable text of each, which is made when somebody searches
        const rows = [], haystacks = [];
        // chosen has the indexes of the rows that match, in their order. The first `drawn` of them are in the table,
        // and the dialog shows number `shown`.
        let chosen = [], drawn = 0, sort = {key: '', down: false}, shown = -1;

        // adds strings as text, never as markup
        function element(name, look, ...content) {
          const made = document.createElement(name);
          made.className = look;
          made.append(...content);
          return made;
        }

        // the namespace is only a name, which nothing loads
        function svg(name, attributes, ...content) {
          const made = document.createElementNS('http://www.w3.org/2000/svg', name);
          for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
          made.append(...content);
          return made;
        }

        // Columns are titles, or pairs of a title and a class.
        function table(caption, look, columns, lines) {
          const row = (name, cells) => element('tr', '',
            ...cells.map((cell, n) => element(name, [columns[n]].flat()[1] ?? '', cell)));
          const heads = row('th', columns.map(column => [column].flat()[0]));
          for (const head of heads.children) head.scope = 'col'; // for screen readers
          return element('table', look, element('caption', '', caption), element('thead', '', heads),
            element('tbody', '', ...lines.map(line => row('td', line))));
        }

        // Returns a heading and a table, or nothing if there are no lines.
        const titled = (level, title, columns, lines) => lines.length
          ? [element(level, '', title), element('div', '', table(title, 'listed', columns, lines))] : [];

        const button = text => Object.assign(element('button', '', text), {type: 'button'});
        const chip = name => element('span', 'chip ' + name, name); // the class sets its color
        const sum = values => values.reduce((a, b) => a + b, 0);
        const number = count => count.toLocaleString('en-US'); // the page is in English for every reader
        const fixed = seconds => seconds ? seconds.toFixed(2) : '';
        const short = value => +value.toPrecision(3); // 0.30000000000000004 becomes 0.3
        // a value is a string, or an object: {text, length} if it was cut, {json} if it was no string
        const plain = value => value.text ?? value.json ?? value;
        const counted = count => number(count) + (count === 1 ? ' row' : ' rows');
        // most causes are of failed rows, so only those of others get their outcome
        const label = ({outcome, cause}) => (outcome && outcome !== 'failed' ? outcome + ': ' : '') + cause;

        // Returns how much a row needs a person: most if it got worse, then if it got better, then if it has a problem.
        // An unstable row may differ by chance, and one that succeeded on neither side has nothing to compare.
        const needs = ({outcome, trend}) => 4 * (trend === 'worse') + 2 * (trend === 'better') + !['succeeded',
          'partial', 'pending', 'same', 'unstable', 'neither', 'correct', 'not judged'].includes(outcome);

        for (const block of document.querySelectorAll('script.rows')) {
          rows.push(...JSON.parse(block.textContent)); // a block has few enough rows for one call
          block.remove(); // its text needs much memory
        }
        rows.sort((a, b) => needs(b) - needs(a)); // other rows stay in the order of the CSV

        // Draws the counts and figures of the whole batch, and fills the menu of outcomes from them.
        function totals() {
          const counts = Object.entries(batch.totals).filter(([, rows]) => rows), list = element('ul', '');
          const bar = svg('svg', {viewBox: '0 0 1000 12', preserveAspectRatio: 'none', 'aria-hidden': true});
          let x = 0;
          for (const [name, rows] of counts) {
            const width = 1000 * rows / sum(Object.values(batch.totals));
            bar.append(svg('rect', {class: name, x, width: Math.max(1, width), height: 12})); // 1: stays visible
            list.append(element('li', '', chip(name), ' ', element('b', '', number(rows)), ' ',
              element('small', '', (width / 10).toFixed(1) + ' %')));
            at('outcome').append(new Option(name, name));
            x += width;
          }
          const named = isPair ? [chip('first'), chip('second'), 'difference', '95 % interval'] : [''];
          const heads = ['', ...named.map(head => [head, 'number'])];
          const figures = isComparison ? table('Figures', '', heads, batch.comparison)
            : element('dl', '', ...Object.entries(batch.figures).map(([name, figure]) =>
              element('div', '', element('dt', '', name), element('dd', '', figure))));
          return element('section', 'card totals', bar, list, figures,
            ...batch.notes.map(note => element('p', '', 'Note: ' + note)));
        }

        // Draws what every reader of a comparison asks first: which side is better, and which rows changed. 20 of each
        // are enough here, because the table below has all of them.
        function verdict() {
          const text = (error, found) => [error, ...found].filter(part => part).join(' · ') || 'succeeded';
          const isJudged = rows.some(({expected}) => expected.length);
          const moved = ['worse', 'better'].flatMap(trend => {
            const found = [...rows.keys()].filter(n => rows[n].trend === trend);
            const lines = found.slice(0, 20).map(n => { // long texts are cut, because the dialog shows them
              const {id, expected, error_first, error_second} = rows[n];
              return [Object.assign(button(id), {onclick: () => open(n)}),
                ...[expected.map(({value}) => value).join(' · '), text(error_first, expected.map(({first}) => first)),
                  text(error_second, expected.map(({second}) => second))].map(cell => cell.slice(0, 200))];
            });
            return titled('h2', counted(found.length) + ' got ' + trend,
              ['Id', isJudged ? 'Expected' : '', 'First', 'Second'], lines);
          });
          return element('section', 'card', element('h2', '', batch.verdict), ...moved);
        }

        // Shows a row in the dialog, whose buttons need it among the chosen rows.
        function open(n) {
          if (!chosen.includes(n)) filter(''); // '' is no cause
          show(chosen.indexOf(n));
        }

        // Returns what the rows of a comparison are filtered by: outputs that differ, trends and verdicts.
        const tags = ({changes, trend, verdict}) => isPair
          ? [...changes.map(({name}) => name), trend, verdict].filter(tag => tag) : [];

        // Fills the menu of causes and draws the list of them. In a comparison, the menu has the tags, and there is no
        // list. A menu of more than 500 entries, or a list of more than 50, helps nobody. The search finds the rest.
        function causes() {
          if (isComparison) batch.causes = Object.entries(Object.groupBy(rows.flatMap(tags), tag => tag))
            .map(([cause, {length}]) => ({cause, count: length}));
          batch.causes.slice(0, 500).forEach((cause, n) =>
            at('cause').append(new Option(label(cause).slice(0, 80) + ` (${number(cause.count)})`, n)));
          if (isComparison) at('cause').options[0].text = 'all rows';
          if (isComparison || batch.causes.length === 0) return [];
          const lines = batch.causes.slice(0, 50).map((cause, n) => [number(cause.count),
            Object.assign(button(cause.cause), {onclick: () => filter(n)}), chip(cause.outcome),
            cause.ids.join(', ') + (cause.count > cause.ids.length ? ', …' : '')]);
          return [element('section', 'card', ...titled('h2', 'Failures by cause',
            [['Rows', 'number'], 'Cause', 'Outcome', ['Examples', 'ids']], lines))];
        }

        // Draws how long rows took, and how many were completed over time. Attempts that were retried have no result,
        // so they are left out.
        function charts() {
          const isSuccess = ({outcome}) => outcome === 'succeeded' || outcome === 'partial';
          const ends = rows.flatMap(row => row.attempts ?? []).filter(({outcome}) => outcome in batch.totals)
            .map(one => ({...one, end: one.start / 1000 + (one.seconds ?? 0)})).sort((a, b) => a.end - b.end);
          const seconds = ends.filter(isSuccess).map(({seconds}) => seconds ?? 0);
          if (ends.length < 2) return; // one row makes no distribution
          if (seconds.length) at('charts').append(chart('Latency in seconds', [['succeeded', seconds]]));

          // Nights between two sessions would squeeze the bars, so a pause counts at most a minute and three times the
          // slowest row. Within a session, pauses are shorter. (Math.max cannot take 100,000 arguments at once)
          const pause = 60 + ends.reduce((most, {seconds}) => Math.max(most, 3 * (seconds ?? 0)), 0);
          let time = ends[0].seconds ?? 0;
          ends.forEach((one, n) => one.time = time += n ? Math.min(one.end - ends[n - 1].end, pause) : 0);
          const [unit, factor] = time < 120 ? ['seconds', 1] : time < 7200 ? ['minutes', 60] : ['hours', 3600];
          const times = which => ends.filter(one => isSuccess(one) === which).map(({time}) => time / factor);
          at('charts').append(chart(`Completed rows by ${unit} of run time`,
            [['succeeded', times(true)], ['failed', times(false)]]));
        }

        // Returns the distance of ticks so that there are at most `parts`: 1, 2 or 5 times a power of ten, as people
        // expect on a scale.
        function tick(whole, parts) {
          const least = whole / parts, ten = 10 ** Math.floor(Math.log10(least));
          return [1, 2, 5, 10].map(times => times * ten).find(step => least <= step);
        }

        // Draws how many values of each series are in each range. Pointing at a range shows the numbers.
        function chart(title, series) {
          const LEFT = 40, RIGHT = 408, TOP = 14, BOTTOM = 170; // the axes, in units of the viewBox below
          const all = series.flatMap(([, values]) => values).sort((a, b) => a - b);
          // a few far larger values count in the last range, because all others would be in the first one otherwise
          const tail = 4 * all[Math.ceil(all.length * .99) - 1], last = Math.min(all.at(-1), tail) || .01; // not 0
          const width = tick(last, Math.min(40, Math.max(10, 3 * Math.sqrt(all.length)))); // few rows, few bars
          // 1e-9, because 0.3 / 0.1 is a little less than 3
          const count = Math.floor(last / width + 1e-9) + 1, end = count * width;
          const ranges = [...Array(count).keys()];
          const place = value => Math.min(count - 1, Math.floor(value / width + 1e-9));
          const counts = series.map(([, values]) => {
            const counts = Array(count).fill(0);
            for (const value of values) counts[place(value)]++;
            return counts;
          });
          const highest = Math.max(...ranges.map(n => sum(counts.map(of => of[n]))));
          // at least 1, because there are no parts of rows
          const step = Math.max(1, tick(highest, 4)), ceiling = Math.ceil(highest / step) * step;
          const over = value => LEFT + (RIGHT - LEFT) * value / end;
          const down = rows => BOTTOM - (BOTTOM - TOP) * rows / ceiling;
          const text = (x, y, anchor, words) => svg('text', {x, y, 'text-anchor': anchor}, words);
          const ticks = (last, step) =>
            Array.from({length: Math.floor(last / step + 1e-3) + 1}, (_, n) => n * step); // 1e-3 against rounding

          const grid = ticks(ceiling, step).flatMap(rows => [
            text(LEFT - 6, down(rows) + 4, 'end', number(rows)),
            svg('path', {class: 'grid', d: `M${LEFT} ${down(rows)}H${RIGHT}`})]);
          const scale = ticks(end, tick(end, 8)).map(value =>
            text(over(value), BOTTOM + 16, 'middle', short(value)));
          const bars = ranges.map(n => { // stacked, with 7 % of space on both sides
            const words = series.map(([name], of) => number(counts[of][n]) + ' ' + name).join(', ');
            return svg('g', {}, svg('title', {}, `${short(n * width)} to ${short((n + 1) * width)}: ${words}`),
              ...series.map(([name], of) => svg('rect', {class: name,
                x: over((n + .07) * width), y: down(sum(counts.slice(0, of + 1).map(of => of[n]))),
                width: (over(width) - LEFT) * .86, height: BOTTOM - down(counts[of][n])})));
          });
          const legend = series.length > 1 ? series.map(([name]) => chip(name)) : [];
          return element('figure', 'card', element('figcaption', '', element('h2', '', title), ...legend),
            svg('svg', {viewBox: '0 0 420 192', role: 'img'}, ...grid, ...scale, ...bars));
        }

        // the error of the last attempt is whole, while that of a cause has no ids and numbers
        const lastError = row => row.attempts?.at(-1)?.error;
        const errors = row => [row.error_first, row.error_second].filter(error => error).join(' · ');

        // Returns the last column's text, by which it is also sorted. It is cut, as the table shows one line of it.
        function result(row) {
          if (isComparison && errors(row)) return errors(row);
          if (isPair) return row.differs ?? '';
          if ('cause' in row) return lastError(row) ?? label(batch.causes[row.cause]);
          return Object.values(row.outputs).map(plain).join(' · ').slice(0, 300);
        }

        // Returns the last column as it is shown. For two sides, that is the start of each difference, with a few
        // characters before it. The dialog shows all of it.
        function preview(row) {
          if (!isPair || errors(row)) return result(row);
          return row.changes.flatMap(({name, change: {before, first, second, after}}) => [
            element('small', '', name + ' '), before.slice(-20), element('del', '', first.slice(0, 200)),
            element('ins', '', second.slice(0, 200)), after.slice(0, 200), ' ']);
        }

        // the table has the first input that is not the id, so that a reader recognizes the row
        const given = row => Object.entries(row.inputs ?? {});
        const input = rows.flatMap(row => given(row).filter(([, value]) => plain(value) !== row.id))[0]?.[0];
        // `by` returns what a column is sorted by and, without `show`, what it shows; phones hide wide ones
        const columns = [
          {key: 'id', title: 'Id', by: row => row.id, show: row => button(row.id)},
          {key: 'outcome', title: isPair ? 'Kind' : 'Outcome', by: row => row.outcome,
            show: row => chip(row.outcome)},
          ...(isComparison || !input ? [] : [{key: 'input', title: input, by: row => plain(row.inputs[input] ?? ''),
            show: row => ('' + plain(row.inputs[input] ?? '')).slice(0, 200)}]),
          {key: 'seconds', title: isPair ? 'First, s' : 'Seconds', look: 'number',
            by: row => row.seconds ?? 0, show: row => fixed(row.seconds)},
          ...(isPair ? [{key: 'second', title: 'Second, s', look: 'number wide',
            by: row => row.second_seconds ?? 0, show: row => fixed(row.second_seconds)}] : []),
          ...(isComparison ? [] : [
            {key: 'tokens', title: 'Tokens', look: 'number wide', by: row => row.tokens ?? ''},
            {key: 'attempts', title: 'Attempts', look: 'number wide', by: row => row.attempts.length || ''}]),
          {key: 'result', title: isPair ? 'Differences' : 'Output or error', by: result, show: preview}];

        // The title is a button, so that a keyboard can sort, too.
        function header({key, title, look = ''}) {
          const th = element('th', look, button(title));
          th.scope = 'col';
          th.dataset.key = key;
          th.firstChild.onclick = () => sortBy(th);
          return th;
        }

        const strings = value => value === Object(value) ? Object.values(value).flatMap(strings) : [value];
        // the line breaks prevent matches that begin in one value and end in the next
        const haystack = n => haystacks[n] ??= strings(rows[n]).join('\\n').toLowerCase();

        // Chooses the rows that match the search and both menus, and draws the first of them. A row of a report has the
        // index of its cause; one of a comparison has tags.
        function choose() {
          const needle = at('search').value.trim().toLowerCase();
          const outcome = at('outcome').value, cause = at('cause').value;
          chosen = [...rows.keys()].filter(n => (outcome === '' || rows[n].outcome === outcome)
            && (cause === '' || rows[n].cause === +cause || tags(rows[n]).includes(batch.causes[cause].cause))
            && (needle === '' || haystack(n).includes(needle)));
          if (sort.key) order();
          at('count').textContent = number(chosen.length) + ' of ' + counted(rows.length);
          at('none').hidden = chosen.length > 0;
          at('body').replaceChildren();
          drawn = 0;
          shown = -1;
          draw(DRAWN);
        }

        // Shows the rows of one cause, whatever was chosen before.
        function filter(cause) {
          for (const id of ['search', 'outcome']) at(id).value = '';
          at('cause').value = cause;
          choose();
          at('rows').scrollIntoView();
        }

        // Adds the next rows to the table.
        function draw(most) {
          const next = chosen.slice(drawn, drawn + most);
          at('body').append(...next.map((n, i) => line(n, drawn + i)));
          drawn += next.length;
          at('more').hidden = drawn === chosen.length;
          at('more').textContent = `Show more (${number(chosen.length - drawn)} left)`;
          at('left').textContent = drawn < chosen.length ? counted(chosen.length - drawn)
            + ' not printed. Download CSV in the report has all rows; filters choose those to print.' : '';
        }

        const compare = new Intl.Collator('en', {numeric: true}).compare; // r-2 comes before r-10

        // Sorts the chosen rows. Values are computed once for each row, because a sort compares it many times.
        function order() {
          const {by} = columns.find(({key}) => key === sort.key), up = sort.down ? -1 : 1;
          const values = new Map(chosen.map(n => [n, by(rows[n])]));
          chosen.sort((a, b) => up * compare(values.get(a), values.get(b)) || a - b);
        }

        // The handler below finds a clicked row by its place.
        function line(n, place) {
          const made = element('tr', '', ...columns.map(({look = '', by, show = by}) =>
            element('td', look, ...[show(rows[n])].flat())));
          made.dataset.place = place;
          return made;
        }

        // numbers such as -5 begin like formulas but do no harm, and =1+cmd does; `export` has the same rule
        const FORMULA = /^[=+@\\t\\r-]/, NUMBER = /^[+-]?(\\d+([.,]\\d+)*|[.,]\\d+)([eE][+-]?\\d+)?%?$/;

        // Returns the chosen rows as a CSV that a spreadsheet opens without running anything. Inputs and outputs get
        // columns of their own, so the two columns that show parts of them are left out. A comparison keeps its
        // last column, which contains the outputs that differ.
        function csv() {
          const safe = value => (FORMULA.test(value) && !NUMBER.test(value) ? "'" : '') + value;
          const shown = columns.filter(({key}) => isComparison || key !== 'input' && key !== 'result');
          if (!isComparison) shown.push({title: 'Error', by: row => lastError(row) ?? ''});
          for (const part of ['inputs', 'outputs'])
            for (const name of new Set(chosen.flatMap(n => Object.keys(rows[n][part] ?? {}))))
              shown.push({title: part + '.' + name, by: row => plain(row[part]?.[name] ?? '')});
          const cells = [shown.map(({title}) => title), ...chosen.map(n => shown.map(({by}) => by(rows[n])))];
          // with the mark, Excel reads it as UTF-8
          return '\\uFEFF' + cells.map(line => line.map(cell => '"' + safe(cell).replaceAll('"', '""') + '"')
            .join(',') + '\\r\\n').join('');
        }

        // A page without a server can only offer a file by a link.
        function download() {
          const link = element('a', '');
          link.href = URL.createObjectURL(new Blob([csv()], {type: 'text/csv'}));
          // the title without "Report: " or "Comparison: "
          link.download = batch.title.replace(/^\\w+: /, '').replaceAll('.jsonl', '') + '.csv';
          link.click();
        }

        // Indents JSON, but only if no digit is lost: 12345678901234567890 stays as it is.
        function pretty(text) {
          try {
            const value = JSON.parse(text);
            return JSON.stringify(value) === text.replace(/\\s+/g, '') ? JSON.stringify(value, null, 2) : text;
          } catch { return text; }
        }

        const part = (title, items) => items.length
          ? [element('h3', '', title), element('dl', '', ...items)] : [];

        // Returns named values under a title. Only runs have a button to copy them, because Dify finds a run by its id.
        const values = (title, named) => part(title, Object.entries(named).flatMap(([name, value]) => {
          if (value === undefined) return [];
          const cell = element('dd', '', element('pre', '', value.json ? pretty(value.json) : plain(value)));
          if (value.length && value.text) // a string has a length, too
            cell.append(element('div', 'cut', 'cut here; ' + number(value.length) + ' characters in all'));
          if (title === 'Run' && name.endsWith('run')) cell.append(Object.assign(button('Copy'),
            {onclick: async ({target}) => {
              await navigator.clipboard.writeText(value);
              target.textContent = 'Copied';
            }}));
          return [element('dt', '', title === 'Run' ? name.replace('_', ' ') : name), cell];
        }));

        // Returns what was expected of a row and what was found, or nothing if nothing was expected.
        const checks = row => titled('h3', 'Expected',
          ['Output', 'Expected', ...(isPair ? ['First', 'Second'] : ['Found'])],
          (row.expected ?? []).map(({output, value, first, second}) =>
            [output, value, ...(isPair ? [first] : []), second]));

        // Returns the outputs that differ, side by side, with the same text around the part that differs.
        const changes = row => (row.changes ?? []).flatMap(({name, change: {before, first, second, after}}) => {
          const side = (word, look, text) => element('div', '', chip(word),
            element('pre', '', before, element(look, '', text), after));
          return [element('h3', '', name),
            element('div', 'both', side('first', 'del', first), side('second', 'ins', second))];
        });

        // in UTC, as in the log, and with milliseconds
        const time = start => new Date(start).toISOString().replace('T', ' ').replace('Z', '');

        // Returns all attempts. One without an outcome may still be active, or its session was killed.
        const attempts = row => titled('h3', 'Attempts', ['Start (UTC)', 'Mode', 'Outcome', 'Seconds', 'Error'],
          (row.attempts ?? []).map(({start, mode, outcome, seconds, error, run}) => [time(start), mode,
            outcome ?? 'unfinished', fixed(seconds), (error ?? '') + (run ? ' (run ' + run + ')' : '')]));

        // Opens the dialog for a chosen row. Its link goes into the address bar, without a new step for Back.
        function show(place) {
          shown = place;
          const row = rows[chosen[place]];
          const facts = ['run', 'seconds', 'tokens', 'price', ...(isPair ? ['second_run', 'second_seconds'] : []),
            'differs', 'error_first', 'error_second', 'unequal_first', 'unequal_second', 'unequal_across'];
          at('detail-id').textContent = row.id;
          at('detail-body').replaceChildren(chip(row.outcome), ...checks(row), ...changes(row),
            ...values('Run', {error: lastError(row), ...Object.fromEntries(facts.map(name => [name, row[name]]))}),
            ...values(row.edited ? 'Inputs as edited in the shell' : 'Inputs', row.inputs),
            ...values('Outputs', row.outputs),
            ...attempts(row));
          at('before').disabled = place === 0;
          at('after').disabled = place === chosen.length - 1;
          history.replaceState(null, '', '#row=' + encodeURIComponent(row.id));
          if (!at('detail').open) at('detail').showModal();
          at('detail').scrollTop = 0; // the row before may have been scrolled
        }

        // Opens the row that the link contains, such as report.html#row=r-15.
        function follow() {
          const id = new URLSearchParams(location.hash.slice(1)).get('row');
          const n = rows.findIndex(row => row.id === id);
          if (n >= 0) open(n);
        }

        // Sorts by a column, or turns its order around if the table is sorted by it.
        function sortBy(th) {
          sort = {key: th.dataset.key, down: sort.key === th.dataset.key && !sort.down};
          for (const other of at('heads').children) other.removeAttribute('aria-sort');
          th.setAttribute('aria-sort', sort.down ? 'descending' : 'ascending');
          choose();
        }

        // one handler for all rows, which come and go
        at('body').onclick = event => {
          const row = event.target.closest('tr');
          if (row) show(+row.dataset.place);
        };
        let timer; // searches when nobody has typed for 120 ms, because a search of many rows is slow
        at('search').oninput = () => { clearTimeout(timer); timer = setTimeout(choose, 120); };
        for (const id of ['outcome', 'cause']) at(id).onchange = choose;
        at('reset').onclick = () => filter('');
        at('download').onclick = download;
        at('more').onclick = () => draw(DRAWN);
        at('close').onclick = () => at('detail').close();
        at('before').onclick = () => show(shown - 1);
        at('after').onclick = () => show(shown + 1);
        at('detail').onclose = () => history.replaceState(null, '', '#');
        onhashchange = follow;
        // prints the first rows, and as many more as needed to have all rows that need a person
        onbeforeprint = () =>
          draw(Math.max(0, Math.max(PRINTED, 1 + chosen.findLastIndex(n => needs(rows[n]))) - drawn));

        document.title = at('title').textContent = batch.title;
        at('about').textContent = batch.about;
        // totals and causes first, because they fill the menus that choose() reads
        at('overview').append(...(isComparison ? [verdict()] : []), totals(), ...causes());
        at('heads').append(...columns.map(header));
        if (!isComparison) charts();
        choose();
        follow();
        document.documentElement.dataset.ready = 'yes'; // for the tests
        """;
    }
}
