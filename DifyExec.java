//usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//GAV difyexec:difyexec:0.5.0
//DESCRIPTION Runs a Dify app once for every row of a CSV, Excel or JSON file.
//DOCS README.md
//DOCS guide=docs/guide.md
//DOCS troubleshooting=docs/troubleshooting.md
//DEPS info.picocli:picocli:4.7.7
//DEPS info.picocli:picocli-shell-jline3:4.7.7
//DEPS org.jline:jline:3.30.16
//DEPS com.fasterxml.jackson.core:jackson-databind:2.21.8
//DEPS com.opencsv:opencsv:5.12.0
//DEPS com.github.albfernandez:juniversalchardet:2.5.0
//DEPS org.apache.commons:commons-text:1.15.0
//DEPS io.github.cdimascio:dotenv-java:3.2.0
//DEPS org.dhatim:fastexcel-reader:0.20.2
//DEPS org.dhatim:fastexcel:0.20.2
//DEPS org.apache.httpcomponents.core5:httpcore5:5.4.4
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED -XX:+UseSerialGC -Xmn16m -XX:SurvivorRatio=3
//RUNTIME_OPTIONS -XX:TieredStopAtLevel=1
//MANIFEST Enable-Native-Access=ALL-UNNAMED

package difyexec;

import com.fasterxml.jackson.annotation.JsonInclude;
import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.annotation.JsonPropertyOrder;
import com.fasterxml.jackson.annotation.JsonSetter;
import com.fasterxml.jackson.annotation.JsonUnwrapped;
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
import com.fasterxml.jackson.databind.module.SimpleModule;
import com.fasterxml.jackson.databind.node.NullNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.databind.node.TextNode;
import com.fasterxml.jackson.databind.ser.std.ToStringSerializerBase;
import com.fasterxml.jackson.databind.util.RawValue;
import com.opencsv.CSVWriter;
import io.github.cdimascio.dotenv.internal.DotenvParser;
import io.github.cdimascio.dotenv.internal.DotenvReader;
import java.security.cert.CertificateException;
import java.security.cert.CertificateExpiredException;
import java.security.cert.CertificateNotYetValidException;
import java.util.concurrent.ExecutionException;
import javax.xml.namespace.QName;
import javax.xml.stream.*;
import javax.xml.stream.events.*;
import org.apache.commons.compress.archivers.zip.ZipArchiveInputStream;
import org.apache.commons.compress.utils.BoundedSeekableByteChannelInputStream;
import org.apache.commons.text.StringEscapeUtils;
import org.apache.commons.text.WordUtils;
import org.apache.commons.text.similarity.LevenshteinDistance;
import org.apache.hc.core5.http.ClassicHttpResponse;
import org.apache.hc.core5.http.HttpEntity;
import org.apache.hc.core5.http.HttpException;
import org.apache.hc.core5.http.HttpHost;
import org.apache.hc.core5.http.NameValuePair;
import org.apache.hc.core5.http.config.Http1Config;
import org.apache.hc.core5.http.impl.io.DefaultBHttpClientConnection;
import org.apache.hc.core5.http.impl.io.HttpRequestExecutor;
import org.apache.hc.core5.http.io.entity.ByteArrayEntity;
import org.apache.hc.core5.http.io.entity.EntityTemplate;
import org.apache.hc.core5.http.message.BasicClassicHttpRequest;
import org.apache.hc.core5.http.protocol.HttpCoreContext;
import org.apache.hc.core5.io.Closer;
import org.dhatim.fastexcel.Workbook;
import org.dhatim.fastexcel.Worksheet;
import org.dhatim.fastexcel.reader.CellAddress;
import org.dhatim.fastexcel.reader.CellRangeAddress;
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
import org.jline.nativ.Kernel32;
import org.jline.terminal.TerminalBuilder;
import org.jline.terminal.impl.jni.win.NativeWinSysTerminal;
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
import module jdk.httpserver;

import static difyexec.DifyExec.Batch.Selection.Choice;
import static difyexec.DifyExec.Event.*;
import static difyexec.DifyExec.Json.object;
import static java.nio.charset.StandardCharsets.ISO_8859_1;
import static java.nio.charset.StandardCharsets.UTF_8;
import static java.util.concurrent.TimeUnit.MILLISECONDS;
import static java.util.concurrent.TimeUnit.NANOSECONDS;
import static java.util.stream.Collectors.joining;
import static org.jline.terminal.impl.AbstractWindowsTerminal.ENABLE_VIRTUAL_TERMINAL_PROCESSING;

/// Runs a Dify app once for every row of a CSV, Excel or JSON file. Finished rows are not lost,
/// results are not mixed up, and no row is paid for twice.
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
/// | 3 | rows failed, are paused, unknown or perhaps paid twice; `compare` or `verify` found problems |
/// | 4 | stopped early: refused, no response, a limit, or a file that cannot be written |
/// | 130 | interrupted |
@Command(name = "difyexec", synopsisSubcommandLabel = "COMMAND",
        description = {"Run a Dify app once for every row of a CSV, Excel or JSON file.",
                "Finished rows are not lost, results are not mixed up, and no row is paid for twice."},
        footer = {"  difyexec run --demo -i data.csv -o results.jsonl", "  difyexec status -o results.jsonl",
                "  difyexec help run"})
final class DifyExec implements Runnable {

    /// Lists all commands in the order in which help shows them.
    private static final List<Class<?>> COMMANDS = List.of(Check.class, Run.class, Status.class, Retry.class,
            Export.class, Shell.class, Compare.class, Verify.class, GenerateCompletion.class,
            CommandLine.HelpCommand.class);

    @Mixin Console console;

    /// Starts the tool. `--version` comes first, because the classes of the command
    /// line take 0.15 s to load.
    static void main(String... args) {
        if (args.length == 1 && Set.of("-V", "--version").contains(args[0])) {
            System.out.println(NAME_AND_VERSION);
            return;
        }
        setProperties();
        if (Env.isInputClosed()) System.setIn(InputStream.nullInputStream());
        // ./jbang passes on its folder, whose .env is read, and the typed words, which the
        // suggested commands repeat. Without the words, the class path and the current folder show
        // how the tool was started.
        var script = Objects.requireNonNullElse(System.getenv("DIFYEXEC_HOME"), "");
        var invocation = Env.findInvocation(System.getenv("DIFYEXEC_COMMAND"), List.of(args),
                System.getProperty("java.class.path"), Files.exists(Path.of("DifyExec.java")));
        var env = new Env(System::getenv, invocation, Path.of(""), Path.of(script));
        var line = commandLine(env, args);
        Screen.writer(1, System.out).ifPresent(line::setOut);
        Screen.writer(2, System.err).ifPresent(line::setErr);
        System.exit(line.execute(args));
    }

    /// Sets a property that JLine reads only once, when its classes load. A property set with `-D` stays.
    static void setProperties() {
        Platform.HERE.terminalProvider(DifyExec.class.getModule().isNativeAccessEnabled()).ifPresent(provider ->
                System.getProperties().putIfAbsent("org.jline.terminal.provider", provider));
    }

    /// Builds the command tree for an environment, which is a map in tests. Everything that a
    /// command prints goes through a writer that masks the API key. If the first argument is the
    /// name of a command, the tree has only that command, because reading the options of all
    /// commands takes picocli 0.1 s of processor time. `shell` needs all of them, because it runs
    /// most of the other commands.
    static CommandLine commandLine(Env settings, String... args) {
        var env = settings.with(args);
        var secret = env.secret();
        var line = new CommandLine(new DifyExec(), new CommandLines.Factory(env, UnaryOperator.identity(), List.of())) {
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
        line.getOut();
        line.getErr();
        return CommandLines.configure(line, new EnvDefaults(env, args), env)
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

    // ── Commands ─────────────────────────────────────────────────────────────

    @Command(name = "run", description = "Run every row that has not succeeded yet.",
            footer = {"  difyexec run --demo -i data.csv -o results.jsonl",
                    "  difyexec run -i data.csv -o results.jsonl --sample 20"})
    static final class Run implements Callable<Integer> {
        @Mixin Work work;
        @ArgGroup(validate = false, order = 3, heading = "") Batches batches = new Batches();

        @Override
        public Integer call() throws Exception {
            return work.start(batches.selection(), batches.fresh);
        }

        /// Holds the options for a whole batch. Their group has no heading of its own, so help
        /// shows them under the heading of the options for rows.
        static final class Batches {
            @Option(names = "--ids", paramLabel = "A,B", split = ",", hideParamSyntax = true,
                    description = "Run only these ids, if they have not succeeded yet.")
            @Lasts(Scope.CALL) List<String> ids = List.of();

            @Option(names = "--sample", paramLabel = "N",
                    description = "Run N random pending rows to estimate time and cost.")
            @Lasts(Scope.CALL) Long sample;

            @Option(names = "--seed", paramLabel = "S", hidden = true,
                    description = "Use this seed for --sample (default: a random one).")
            @Lasts(Scope.CALL) Long seed;

            @Option(names = "--rerun-changed", description = "Also run succeeded rows that changed in the CSV.")
            @Lasts(Scope.CALL) boolean rerunChanged;

            @Option(names = "--fresh", description = "Move an earlier batch's files aside and start over.")
            @Lasts(Scope.CALL) boolean fresh;

            Batch.Selection selection() {
                var pending = Batch.Selection.PENDING.among(ids).with(Choice.RERUN_CHANGED, rerunChanged);
                if (sample == null && seed == null) return pending;
                // Work rejects --seed without --sample. A random seed is short,
                // because a user may have to type it.
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

        @Option(names = "--again", description = "Also run ids that have already succeeded.")
        @Lasts(Scope.CALL) boolean again;

        @Override
        public Integer call() throws Exception {
            // in the shell, a retry of one row shows its run as it happens; several
            // rows would be mixed
            if (ids.size() == 1 && work.setup.isInShell()) work.showRun(new RunView(work.setup.out()));
            return work.start(ids.isEmpty() ? Batch.Selection.LISTED : Batch.Selection.named(ids, again), false);
        }
    }

    @Command(name = "status", description = "Show a batch's progress (offline, no key needed).",
            footer = {"  difyexec status -o results.jsonl",
                    "  difyexec status -o results.jsonl --html report.html"})
    static final class Status implements Callable<Integer> {
        @Mixin ResultsOption results;

        @Option(names = {"-i", "--input"}, paramLabel = "CSV",
                description = "Read rows from this file (default: the batch's).")
        @Lasts(Scope.CALL) Path input;

        @Mixin CsvOptions shape;

        @Option(names = "--json", description = "Print one JSON object.")
        @Lasts(Scope.CALL) boolean json;

        @Option(names = "--html", paramLabel = "FILE",
                description = "Write a report: one page with charts and all rows.")
        @Lasts(Scope.CALL) Path html;

        @Mixin ForceOption force;
        @Mixin Console console;

        /// Shows the batch under `-o`. The exit code is 0 only if every row has succeeded and all
        /// its files were saved, so that a script can wait for that.
        @Override
        public Integer call() throws IOException {
            var files = BatchFiles.of(results.file).requireStarted();
            try (var csv = open(files)) {
                // only the report shows single rows, so only it needs their offsets in the files
                var batch = Batch.peek(files, Optional.ofNullable(csv), html != null, List.of());
                force.check(batch.kept(), new BatchFiles.Target(html, WebPage.MARK));
                console.write(html, "Report", file -> WebPage.report(batch, file));
                if (json) console.out().println(Json.text(StatusView.json(batch)));
                else StatusView.print(batch, console.out(), console.paint(), console.next().suggestNext(batch));
                boolean isDone = batch.index().isComplete() && batch.figures().missingFiles().isEmpty();
                return Exit.ofRows(isDone).code;
            }
        }

        /// Opens the typed input, or otherwise the input of the last session, so that rows that
        /// have not run are counted. Returns null, with a note, if the last session's input is
        /// missing or unreadable. The status then shows only what the log contains. This is not an
        /// error, because the user did not ask for that file.
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
        @Lasts(Scope.CALL) boolean failed;

        @Option(names = "--raw", description = "Do not escape cells that look like formulas.")
        @Lasts(Scope.CALL) boolean raw;

        @Mixin ForceOption force;
        @Mixin Console console;

        /// Reads the batch once before it writes anything, because the header needs
        /// the names of all outputs.
        @Override
        public Integer call() throws IOException {
            var files = BatchFiles.of(results.file).requireStarted();
            boolean toFile = !file.toString().equals("-");
            var names = new LinkedHashSet<String>();
            try (var csv = shape.open(input.csv, files)) {
                Batch.Listener addNames = (_, line) -> names.addAll(new ResultLine(line.tree()).outputs().keySet());
                var batch = Batch.peek(files, Optional.of(csv), true,
                        failed ? List.of() : List.of(addNames)); // failed rows have no outputs
                if (toFile) force.check(batch.kept(), new BatchFiles.Target(file, ""));
                if (toFile && !file.toString().toLowerCase(Locale.ROOT).matches(".*\\.(csv|xlsx)"))
                    throw new Unusable(file + ": must end in .csv or .xlsx");
                StatusView.notes(batch).forEach(note -> console.err().println("Note: " + note + "."));
                // uses the input's delimiter, because the same program may open both files
                var sheet = new Spreadsheet(file, csv.header().delimiter(), raw);
                IOConsumer<OutputStream> content = out -> sheet.export(batch, names, failed, out);
                if (toFile) AtomicFile.write(file, content);
                else content.accept(System.out); // not console.out(), because an export is always UTF-8
                long done = batch.index().count(RowStatus.SUCCEEDED) + batch.index().count(RowStatus.PARTIAL);
                sheet.printSummary(console.err(), failed ? "" : " (" + Text.number(done) + " with a result)");
                int others = batch.index().size() - batch.index().rows();
                if (others > 0) console.err().println("Left out " + Text.count(others, "row") + " of the batch, "
                        + "because " + input.csv + " lacks them.");
                console.err().println(console.next().suggestNext(batch));
                return Exit.ofRows(others == 0).code;
            }
        }
    }

    @Command(name = "compare", description = {"Compare two results files, or check one against expected values.",
                    "It works offline. Exit code 3 if rows differ or miss their value."},
            footer = {"  difyexec compare before.jsonl after.jsonl",
                    "  difyexec compare --output /answer before.jsonl after.jsonl",
                    "  difyexec compare --html compare.html before.jsonl after.jsonl",
                    "  difyexec compare after.jsonl -i data.csv --expect wanted=/answer"})
    static final class Compare implements Callable<Integer> {
        @Parameters(arity = "1..2", paramLabel = "JSONL",
                description = "Read results from these files, the earlier ones first.")
        List<Path> files;

        @Option(names = {"-i", "--input"}, paramLabel = "CSV", description = "Read expected values from this file.")
        Path input;

        @Option(names = "--expect", paramLabel = "COLUMN=/POINTER",
                description = "Check this output against the column; repeatable.")
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
                description = "Write a JUnit report about the last file, with a test case for each row.")
        Path junit;

        @Mixin ForceOption force;
        @Mixin Console console;

        /// Checks everything before it writes the first file, so that a mistake
        /// leaves every file as it was.
        @Override
        public Integer call() throws IOException {
            if (!JsonDiff.POINTER.matcher(part).matches())
                throw new Unusable("--output " + part + ": not a JSON pointer, such as /answer/text");
            if (expect.isEmpty() != (input == null) || expect.isEmpty() && tolerance != null)
                throw new Unusable("--expect needs -i; -i and --tolerance need --expect",
                        "such as -i data.csv --expect answer_expected=/answer");
            if (files.size() > 2 || files.size() == 1 && expect.isEmpty()) // picocli accepts a third one
                throw new Unusable("compare needs two results files", "pass two, or one with --expect");
            // in parallel, because each batch has its own files
            var batches = files.parallelStream().map(file -> Batch.peek(BatchFiles.of(file).requireStarted(),
                    Optional.empty(), true, List.of())).toList();
            for (var batch : batches) for (var note : StatusView.notes(batch))
                console.err().println("Note: " + StatusView.title(batch) + ": " + note + ".");
            force.check(Stream.concat(Stream.ofNullable(input), batches.stream().flatMap(batch ->
                    batch.kept().stream())).toList(), new BatchFiles.Target(csv, ""),
                    new BatchFiles.Target(html, WebPage.MARK), new BatchFiles.Target(junit, Comparison.JUNIT_MARK));
            var scope = new Comparison.Scope(part, Set.copyOf(ignored), new JsonDiff(trim));
            // compare has no options such as --delimiter, so the CSV is read as in
            // the later batch's last session
            var choices = batches.getLast().files().choices();
            try (var data = input == null ? null : Csv.open(input, choices.shape());
                    var both = new Comparison(batches, scope, Expectations.of(data, expect, scope.diff(), tolerance))) {
                both.read(input);
                if (json) both.printJson(console.out());
                else both.print(console.out(), console.paint(), all);
                if (csv != null) {
                    var sheet = new Spreadsheet(csv, ',', false);
                    AtomicFile.write(csv, file -> both.writeCsv(sheet, file));
                    sheet.printSummary(console.err(), "");
                }
                console.write(html, "Page", both::writePage);
                console.write(junit, "JUnit report", both::writeJUnit);
                return Exit.ofRows(!both.hasProblems()).code;
            } catch (Faulty fault) { // its hint may suggest an option that compare does not have
                throw new Unusable(fault.what(), "correct the file; compare reads it with the options of the last run");
            }
        }
    }

    @Command(name = "check", description = "Check settings, server, app and every cell without starting a run.",
            footer = {"  difyexec check --demo -i data.csv", "  difyexec check -i data.csv --show 1"})
    static final class Check implements Callable<Integer> {
        @Mixin InputOption input;

        @Option(names = "--json", description = "Print one JSON object with all problems.")
        @Lasts(Scope.CALL) boolean json;

        @Option(names = "--show", paramLabel = "N", defaultValue = "0",
                description = "Print the requests of the first N rows as JSON and curl, key masked.")
        @Lasts(Scope.CALL) int show;

        @Option(names = "--shard", paramLabel = "I/N", description = "Check only the rows of shard I of N.")
        String shard;

        @Mixin DemoOption demo;
        @ArgGroup(validate = false, order = 1, heading = "%nInput:%n") CsvOptions shape = new CsvOptions();
        @ArgGroup(validate = false, order = 5, heading = "%nWorkflow:%n")
        WorkflowOptions workflow = new WorkflowOptions();
        @Mixin Setup setup;

        /// Checks the input. `check` belongs to no batch, so the options of earlier
        /// sessions do not apply.
        @Override
        public Integer call() throws Exception {
            var retrying = setup.retrying();
            var part = Optional.ofNullable(shard).map(Shard::parse);
            try (var whole = shape.open(input.csv, workflow.queryColumn, Optional.empty())
                    .with(setup.edits)) {
                var csv = whole.with(part);
                try (var dify = setup.connect(demo.start(csv), workflow.workflowId, retrying, 1)) {
                    int code = report(csv, dify.greet(""), dify);
                    if (code == Exit.OK.code && !json) setup.next().suggestRun(part).ifPresent(setup.out()::println);
                    return code;
                } catch (Unusable problem) {
                    // faults of the file itself are found without the server and thrown instead
                    Index.of(csv, _ -> {});
                    throw problem;
                }
            }
        }

        /// Reads every row once and checks its values. Reads the first rows again if their requests
        /// are to be shown. With `--json`, standard output contains only the JSON object, so that a
        /// script can parse it.
        private int report(Csv csv, ServerInfo server, Connection dify) throws InterruptedException, IOException {
            var out = setup.out();
            var modes = new ModePolicy(workflow.mode, Optional.empty(), server.kind(), server.version());
            modes.note().ifPresent(setup.err()::println);
            var inspection = dify.inspect(workflow, server, csv);
            if (json) out.println(Json.text(inspection));
            else CheckView.print(inspection, server, Screen.on(1).map(Screen::width), out);
            var steps = inspection.stepsBefore();
            if (!json && !inspection.options().isEmpty()) out.println((steps.isEmpty() ? "Next: "
                    : "To continue, " + steps) + setup.again(inspection.options()));
            if (!json && !inspection.nulls().isEmpty())
                out.println("To read these words as empty: " + setup.again(inspection.nulls()));
            if (!Requirement.all(workflow.require).isEmpty())
                setup.err().println("Note: --require is not checked, because only a run shows its outputs.");
            // a row with a problem has no request to show
            if (show > 0 && inspection.isFine()) show(csv, server, modes.mode(), dify);
            return inspection.isFine() ? Exit.OK.code : Exit.UNUSABLE.code;
        }

        private void show(Csv csv, ServerInfo server, Mode mode, Connection dify) throws InterruptedException {
            var out = json ? setup.err() : setup.out();
            var form = dify.form(workflow, server, csv);
            var index = Index.of(csv, _ -> {});
            var shown = new BitSet();
            shown.set(0, Math.min(show, index.rows()));
            var client = dify.client().forApp(server.kind());
            csv.rows(shown, index::fingerprint).forEachRemaining(row -> CheckView.printRequest(
                    Attempt.unsent(row, "difyexec-0123456789abcdef-1", mode), form, client, out));
        }
    }

    @Command(name = "verify", description = {"Check results and attempts against the server's own records.",
                    "It only reads, also while the batch runs, and sends two or three requests per attempt."},
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

        @Mixin Setup setup;

        /// Asks the server of the batch about each row. Another app would not have its runs, so
        /// every row would look wrong.
        @Override
        public Integer call() throws Exception {
            var retrying = setup.retrying();
            if (sample == null && seed != null)
                throw new Unusable("--seed cannot be used without --sample", "add --sample N");
            var files = BatchFiles.of(results.file).requireStarted();
            files.requireOurs();
            var evidence = Verification.Evidence.of(files);
            long start = System.nanoTime();
            // passes neither a demo, whose runs end with its process, nor a version,
            // which selects only new runs
            try (var dify = setup.connect(Optional.empty(), "", retrying, Verification.ROWS_AT_ONCE)) {
                var origin = new Origin(files, Event.lastSession(files.log()));
                origin.requireServer(dify.access().name(), "the demo's runs are gone, so verify another batch");
                var server = dify.greet("");
                dify.identify(origin, server.kind(), "");
                var ids = evidence.ids(sample, seed);
                var found = new Verification(evidence, dify.client(), server.kind(),
                        Optional.ofNullable(rate)).checkRows(ids, setup.err());
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
                boolean hasResults = ids.stream().anyMatch(evidence.places()::containsKey);
                return Verification.exit(found.keySet(), hasResults).code;
            }
        }
    }

    @Command(name = "generate-completion", description = "Print a completion script for bash and zsh.",
            footer = "  source <(difyexec generate-completion)")
    static final class GenerateCompletion implements Runnable {
        @Mixin Console console;

        @Override
        public void run() {
            console.out().println(AutoComplete.bash("difyexec", console.spec.root().commandLine()));
        }
    }

    // ── Shell ────────────────────────────────────────────────────────────────

    /// Runs commands on one open batch, from a terminal or a script. Its options are
    /// the defaults of these commands.
    ///
    /// ```
    /// Dialogue or script ──line──▶ ShellSession: the open batch, edits ──▶ its own commands, or those of the tool
    /// ```
    @Command(name = "shell",
            description = "Fix failed rows one by one, in a terminal or with commands from standard input.",
            footer = {"  difyexec shell --demo -i data.csv -o results.jsonl",
                    "  difyexec shell -i data.csv -o results.jsonl <script.txt",
                    "  difyexec shell"})
    static final class Shell implements Callable<Integer> {
        @Option(names = {"-i", "--input"}, paramLabel = "CSV", description = "Read this CSV, Excel or JSON file.")
        @Lasts(Scope.CALL) Path input;

        @Option(names = {"-o", "--output"}, paramLabel = "JSONL", description = "Open the batch of this results file.")
        @Lasts(Scope.CALL) Path output;

        @Mixin DemoOption demo;

        @Option(names = "--keep-going",
                description = "In a script, continue after a failed command, and exit with the highest code.")
        @Lasts(Scope.CALL) boolean keepGoing;

        @ArgGroup(validate = false, order = 1, heading = "%nInput:%n") CsvOptions shape = new CsvOptions();
        @ArgGroup(validate = false, order = 5, heading = "%nWorkflow:%n")
        WorkflowOptions workflow = new WorkflowOptions();
        @ArgGroup(validate = false, order = 7, heading = "%nRetrying:%n") RunOptions retrying = new RunOptions();
        @Mixin Setup setup;

        @Override
        public Integer call() throws IOException {
            var session = session();
            return Screen.on(0).isPresent() ? Dialogue.run(session, setup.env)
                    : script(session, new InputStreamReader(System.in, UTF_8), keepGoing);
        }

        /// Starts a session. Checks the settings now, so that a mistake is reported
        /// before the first command.
        ShellSession session() {
            setup.check(retrying);
            var session = new ShellSession(this);
            if (output != null) session.open(Optional.ofNullable(input), output);
            return session;
        }

        /// Runs a script and returns the highest exit code. Failed rows do not end it, because a
        /// later command may retry or export them. An interrupt ends it even with --keep-going.
        static int script(ShellSession session, Reader commands, boolean keepGoing) throws IOException {
            var lines = new LineNumberReader(commands);
            int highest = Exit.OK.code, number = 1;
            for (var line = command(lines); line != null && !session.isExited(); line = command(lines)) {
                int code = session.execute(line);
                highest = Math.max(highest, code);
                if (code != Exit.OK.code && code != Exit.ROWS_FAILED.code) {
                    boolean ends = !keepGoing || code == Exit.INTERRUPTED.code;
                    // the command has already reported why it failed, but not on
                    // which line of the script
                    session.err.println("difyexec: line " + number + ": command failed (exit code " + code + ")"
                            + (ends ? "; the script ends here" : ""));
                    session.err.flush();
                    if (ends) break;
                }
                // where the next command begins; it may have several lines
                number = lines.getLineNumber() + 1;
            }
            return highest;
        }

        /// Returns the next line, with the lines after it while a quote is open.
        /// Returns null after the last line.
        static String command(BufferedReader lines) throws IOException {
            var line = lines.readLine();
            while (line != null && words(line, Platform.HERE).isEmpty()) {
                var more = lines.readLine();
                if (more == null) break;
                line += "\n" + more;
            }
            return line;
        }

        /// Returns the parser of a line. A backslash escapes a quote, except on Windows,
        /// where it is in every path.
        static DefaultParser parser(Platform system) {
            return new DefaultParser().eofOnUnclosedQuote(true) // Enter in a quote starts a new line
                    .escapeChars(system == Platform.WINDOWS ? new char[0] : new char[] {'\\'});
        }

        /// Splits a line into words, with quotes as in `text="two words"`, which JLine leaves in.
        /// Returns empty while a quote is open. A line that starts with `#` has no words.
        static Optional<List<String>> words(String line, Platform system) {
            if (line.startsWith("#")) return Optional.of(List.of());
            try {
                return Optional.of(parser(system).parse(line, -1, Parser.ParseContext.ACCEPT_LINE).words().stream()
                        .map(word -> word.replaceFirst("(?s)^([^=\"']*=)([\"'])(.*)\\2$", "$1$3")).toList());
            } catch (EOFError _) {
                return Optional.empty();
            }
        }

        /// Runs the shell on a terminal. Only this type loads JLine's line editor,
        /// so that a script starts faster.
        static final class Dialogue {
            /// Runs the dialogue. A line that contains an API key is left out of the
            /// history, which is kept in a file.
            static int run(ShellSession session, Env env) throws IOException {
                // `dumb` allows a terminal that JLine cannot control, such as one
                // inside an editor, without a warning
                try (var terminal = TerminalBuilder.builder().system(true).dumb(true).build()) {
                    var reader = LineReaderBuilder.builder().terminal(terminal).appName("difyexec")
                            .parser(parser(Platform.HERE))
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
                    return Exit.OK.code; // the user has seen the outcome of each command
                }
            }

            /// Only this user can read the folder of the history, because typed commands may
            /// contain inputs. If the folder cannot be used, the history ends with the session.
            private static void remember(LineReader reader, Env env) {
                var folder = Platform.HERE.stateFolder(env::get, System.getProperty("user.home"));
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

            /// Reads and runs commands until the user exits. The first attempt to
            /// exit with unsaved edits only warns. A terminal that is gone ends the
            /// shell, because JLine would read from it forever.
            private static void converse(ShellSession session, LineReader reader) throws IOException {
                var warned = "";
                while (!session.isExited() && Screen.on(0).isPresent()) {
                    try {
                        // the prompt contains a file name, and JLine would read a %
                        // in it as a pattern
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

            /// Runs each line of a pasted block. Ctrl-C stops the running command
            /// and drops the other lines.
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

        /// Completes ids and files; picocli completes commands and options.
        record Completion(ShellSession session) implements Completer {
            /// A batch may have a million ids, and a terminal shows far fewer.
            private static final int MAX_CANDIDATES = 99; // JLine asks before it lists 100

            @Override
            public void complete(LineReader reader, ParsedLine line, List<Candidate> candidates) {
                var commands = session.commandLine();
                var arg = arg(commands.getSubcommands().get(line.words().getFirst()), line);
                var typed = line.word().substring(0, line.wordCursor());
                // the type of a list's element
                if (arg.isPresent() && arg.get().auxiliaryTypes()[0] == Path.class)
                    new Completers.FileNameCompleter().complete(reader, line, candidates);
                else if (arg.isPresent() && Set.of("ID", "ROWS").contains(arg.get().paramLabel()))
                    session.ids().filter(id -> id.startsWith(typed)).limit(MAX_CANDIDATES)
                            .forEach(id -> candidates.add(candidate(id, candidates.size())));
                else new PicocliJLineCompleter(commands.getCommandSpec()).complete(reader, line, candidates);
            }

            private static Candidate candidate(String id, int place) {
                var shown = Text.printable(id, Integer.MAX_VALUE); // it may contain control characters
                return new Candidate(id, shown, null, null, null, null, true, place);
            }

            /// Returns the option or parameter that the word at the cursor belongs to, or empty if
            /// there is none. The word belongs to the option before it if that needs a value. Word
            /// 0 is the command, so word 1 is parameter 0.
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

    /// Holds the open batch, its edits and the commands for them. Only the thread that runs the
    /// commands uses it.
    @Command(name = "dify>", synopsisSubcommandLabel = "COMMAND",
            description = "Fix the failed rows of the open batch.", subcommands = CommandLine.HelpCommand.class,
            footer = {"%nQuote a value with spaces or line breaks, and double a backslash (not on Windows):",
                    "  set r-7 text=\"two words\"",
                    "'help COMMAND' shows the options of a command."})
    static final class ShellSession {
        /// Is used if neither `VISUAL` nor `EDITOR` is set.
        private static final String EDITOR =
                Platform.HERE == Platform.UNIX ? "$(command -v vi || echo nano)" : "notepad";

        final Edits edits = new Edits();
        final PrintWriter out, err;

        private final Shell shell;
        private boolean isExited = false;
        private Batch batch; // null until a batch is opened
        private List<String> stamps; // time and size of each of its files when it was read

        ShellSession(Shell shell) {
            this.shell = shell;
            this.out = shell.setup.out();
            this.err = shell.setup.err();
        }

        /// Runs a command and returns its exit code. Flushes, because nothing else does before the
        /// next prompt.
        int execute(String line) {
            var words = Shell.words(line, Platform.HERE);
            int code = Exit.OK.code;
            if (words.isEmpty()) {
                err.println("difyexec: missing closing quote");
                code = Exit.UNUSABLE.code;
            } else if (line.contains("\uFFFD")) { // Java reads it for what is not UTF-8
                err.println("difyexec: the line is not UTF-8");
                code = Exit.UNUSABLE.code;
            } else if (!words.get().isEmpty()) code = commandLine().execute(words.get().toArray(String[]::new));
            out.flush();
            err.flush();
            return code;
        }

        /// Builds the session's own commands and most of the tool's. They are built again for each
        /// line, because picocli keeps the values of options. The commands that are left out need
        /// the caller's shell. The annotation of this class adds `help`.
        CommandLine commandLine() {
            var env = shell.setup.env;
            var outer = shell.setup.spec.commandLine();
            var line = new CommandLine(this,
                    new CommandLines.Factory(env, edits, Typed.of(outer.getParseResult()).toList()));
            for (var command : outer.getParent().getSubcommands().values()) {
                var type = command.getCommandSpec().userObject().getClass();
                if (!Set.of("shell", "help", "generate-completion").contains(command.getCommandName()))
                    line.addSubcommand(type);
            }
            return CommandLines.configure(line, this::defaultOf, env).setOut(out).setErr(err)
                    .setExpandAtFiles(false) // an id may begin with @, which picocli takes for a file of arguments
                    .setExecutionStrategy(this::run);
        }

        /// Runs a command. Rejects `--env-file`, because the settings were read when the shell
        /// started. With an open batch, also rejects `-i` and `-o`, because one of them alone would
        /// mix the files of two batches.
        private int run(CommandLine.ParseResult parsed) {
            var command = parsed.asCommandLineList().getLast();
            CommandLines.requireNoKey(command, Secret.current());
            var typed = command.getParseResult();
            if (typed.hasMatchedOption("--env-file")
                    || batch != null && (typed.hasMatchedOption("-i") || typed.hasMatchedOption("-o")))
                throw new CommandLine.ExecutionException(command, "",
                        new Unusable("-i, -o and --env-file cannot be changed in the shell",
                                "leave them out; 'open CSV JSONL' opens another batch"));
            return new CommandLine.RunLast().execute(parsed);
        }

        private String defaultOf(ArgSpec arg) {
            // for null, picocli uses the command's own default
            if (!(arg instanceof OptionSpec option)) return null;
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
                @Option(names = "--discard-edits", description = "Discard unsaved edits.") boolean discardEdits) {
            if (edits.isUnsaved() && !discardEdits) throw new Unusable(edits.summary() + " not saved",
                    "'save FILE.csv' keeps the edits; 'open --discard-edits' discards them");
            open(Optional.of(input), output);
            edits.byId.clear();
            out.println(summary().orElseThrow());
        }

        @Command(name = "failures", description = "List rows that are failed, paused or unknown.")
        void failures(@Parameters(arity = "0..1", paramLabel = "TEXT", defaultValue = "",
                description = "List only rows with this text in their id or error.") String text) {
            var index = batch().index();
            var rows = index.onRetryList()
                    // 160 characters are two lines of a terminal
                    .mapToObj(row -> Text.id(index.id(row)) + "  " + Text.printable(Cause.of(batch, row).words(), 160))
                    .filter(line -> line.toLowerCase(Locale.ROOT).contains(text.toLowerCase(Locale.ROOT))).toList();
            if (rows.isEmpty()) out.println("No failed, paused or unknown rows"
                    + Text.around(" with \"", Text.printable(text, 60), "\" in their id or error") + ".");
            // more than 50 rows would scroll off the screen
            Text.printFirst(rows, 50, row -> out.println("  " + row), "  %s ('failures TEXT' lists fewer)", out);
        }

        @Command(name = "show", description = "Show a row: inputs, attempts, outputs.")
        void show(@Parameters(paramLabel = "ID", description = "The row's id.") String id,
                @Option(names = "--full", description = "Show long values in full.") boolean full) throws IOException {
            // empty, because this message does not begin with the name of an option
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

        @Command(name = "edit", description = "Change an input of a row in an editor: $VISUAL, $EDITOR, vi or nano.")
        void edit(@Parameters(paramLabel = "ID", description = "The row's id.") String id,
                @Parameters(paramLabel = "COLUMN", description = "The column to change.") String column)
                throws IOException, InterruptedException {
            requireInput(column);
            var row = row(id);
            setCells(List.of(row), Map.of(column, openInEditor(edits.apply(row).inputs().get(column))));
        }

        /// Edits rows and prints their edits, so that a mistyped value is noticed
        /// before the rows are sent.
        private void setCells(List<Row> rows, Map<String, String> cells) {
            if (cells.values().stream().anyMatch(Secret.current()::occursIn))
                throw new Unusable("the value contains the API key, so nothing was changed");
            rows.forEach(row -> edits.set(row, cells));
            Text.printFirst(rows, 20, this::printEdits, "%s rows ('edits' shows all)", out);
            if (rows.size() > 1) out.println("Set " + Text.count(rows.size(), "row") + ".");
        }

        /// Opens the text in an editor and returns what the user saved. `createTempFile` creates a
        /// file that only this user can read. The editor is a command for `sh`, so it may contain
        /// options.
        private String openInEditor(String text) throws IOException, InterruptedException {
            var editor = Stream.of("VISUAL", "EDITOR").map(shell.setup.env.environment())
                    .filter(command -> command != null && !command.isBlank()).findFirst()
                    .orElse(EDITOR);
            var file = Files.createTempFile("difyexec-", ".txt");
            // Ctrl-C is for the editor, not for its shell …
            var trap = Platform.HERE == Platform.UNIX ? "trap : INT; " : "";
            var former = Signals.register("INT", () -> {}); // … and not for this process
            try {
                Files.writeString(file, text);
                var command = Platform.HERE.command(trap + editor + " \"" + file + '"');
                int code = new ProcessBuilder(command).inheritIO().start().waitFor();
                if (code != 0) throw new Unusable("the editor failed, so nothing was changed ("
                        + Text.printable(editor, 60) + ": exit code " + code + ")",
                        "set VISUAL or EDITOR before you start the shell, or use 'set'");
                // Editors add a line break to the last line, which the text did not have.
                return text.endsWith("\n") ? Files.readString(file) : Files.readString(file).replaceFirst("\\R\\z", "");
            } catch (CharacterCodingException _) {
                throw new Unusable("the edited text is not UTF-8, so nothing was changed");
            } catch (IOException problem) {
                throw new Unusable("the editor failed, so nothing was changed (" + Text.reason(problem) + ")");
            } finally {
                Signals.unregister("INT", former);
                Files.deleteIfExists(file);
            }
        }

        @Command(name = "unset", description = "Undo edits of rows.")
        void unset(@Parameters(paramLabel = "ROWS", description = "An id, several as A,B,C, or 'failed'.")
                String word) {
            var ids = rows(word).stream().map(Row::id).toList();
            if (!edits.byId.keySet().removeAll(ids)) throw new Unusable(Text.quoted(word)
                    + " has no edits", "'edits' lists all");
        }

        @Command(name = "edits", description = "Show the edits as a diff against the CSV.")
        void edits() {
            if (!edits.byId.isEmpty()) batch().rows(entry -> edits.byId.containsKey(batch.index().id(entry)))
                    .forEachRemaining(this::printEdits);
            out.println(edits.byId.isEmpty() ? "No edits."
                    : edits.summary() + ". 'save FILE.csv' writes the CSV with them.");
        }

        /// Prints the edits of a row like a diff. A long line is cut, and `show --full` shows all
        /// of it.
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
                @Mixin ForceOption force) throws IOException {
            if (file.toString().toLowerCase(Locale.ROOT).matches(".*\\.(xlsx|json|jsonl|ndjson)"))
                throw new Unusable(file + ": 'save' writes only CSV", "choose a name that ends in .csv");
            var csv = csv();
            boolean isOpenCsv = !csv.file().isCopy() && Storage.isSame(file, csv.file().input());
            force.check(isOpenCsv ? batch.files().all() : batch.kept(), new BatchFiles.Target(file, ""));
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

        void stay(Unusable why) {
            isExited = false;
            out.println(why.text());
            out.flush();
        }

        /// Opens a batch. If that fails, the previous one stays open.
        void open(Optional<Path> input, Path output) {
            var files = input.isEmpty() ? BatchFiles.of(output).requireStarted() : BatchFiles.of(output);
            var stampsBefore = stamps(files, input); // taken before reading, so that a later write is noticed
            var csv = input.map(path -> shell.shape.open(path, shell.workflow.queryColumn,
                    Optional.of(files)));
            try {
                var opened = Batch.peek(files, csv, true, List.of());
                if (batch != null) batch.csv().ifPresent(Csv::close);
                batch = opened;
                stamps = stampsBefore;
            } catch (Unusable problem) {
                csv.ifPresent(Csv::close);
                throw problem;
            }
        }

        /// Returns the open batch. Reads it again if the time or size of one of its files or of the
        /// CSV has changed, because `retry` or another process has then written it.
        private Batch batch() {
            if (batch == null) throw new Unusable("no batch is open", "'open CSV JSONL' opens one");
            if (!stamps(batch.files(), csvPath()).equals(stamps)) open(csvPath(), batch.files().results());
            return batch;
        }

        private Optional<Path> csvPath() {
            return Optional.ofNullable(batch).flatMap(Batch::csv).map(csv -> csv.file().input());
        }

        private static List<String> stamps(BatchFiles files, Optional<Path> input) {
            return Stream.concat(files.all().stream(), input.stream()).map(Storage::stamp).toList();
        }

        private Csv csv() {
            return batch().csv().orElseThrow(() -> new Unusable("the batch was opened without its CSV",
                    "'open CSV " + Text.shell(batch.files().results().toString()) + "' opens both"));
        }

        /// Returns a row as it is in the CSV, without edits.
        private Row row(String id) {
            csv(); // fails without a CSV, and reads a changed batch again
            int entry = batch.requireEntry(id.strip(), "");
            return batch.rows(one -> one == entry).next();
        }

        /// Returns the row with this id, which may contain commas or be `failed`. Otherwise,
        /// `failed` means all failed rows, and other text is a list of ids.
        private List<Row> rows(String word) {
            csv();
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

        /// Requires a column that may be edited. The id is rejected, because results and log
        /// identify the row by it.
        private void requireInput(String column) {
            var csv = csv();
            if (!csv.columns().contains(column)) throw new Unusable("no column " + Text.quoted(column),
                    Nearest.of(column, csv.columns()).map(near -> "did you mean " + Text.quoted(near) + "?")
                            .orElse("the columns are " + Text.printable(String.join(", ", csv.columns()), 300)));
            if (csv.isId(column)) throw new Unusable("the id of a row cannot be changed",
                    "change it in the CSV, then 'open' that");
        }

        /// Lists the ids. Those of failed, paused and unknown rows come first.
        Stream<String> ids() {
            if (batch == null) return Stream.empty();
            var index = batch.index();
            return IntStream.range(0, index.rows()).boxed()
                    .sorted(Comparator.comparing(entry -> !index.status(entry).isOnRetryList())).map(index::id);
        }

        /// Returns the prompt, with the rows that need attention:
        /// `results.jsonl (2 failed, 1 unknown) dify> `
        String prompt() {
            if (batch == null) return "dify> ";
            var name = Text.printable(batch.files().results().getFileName().toString(), 40);
            try {
                var index = batch().index();
                var openCounts = RowStatus.counts(of -> of.isOnRetryList() ? index.count(of) : 0, Ansi.OFF::by);
                return name + Text.around(" (", openCounts, ")") + " dify> ";
            } catch (Unusable _) {
                // the files changed and are unusable; the next command reports why
                return name + " (?) dify> ";
            }
        }

        /// Describes the open batch: `results.jsonl: 5 rows, 3 succeeded, 2 failed`. Returns empty
        /// if no batch is open.
        Optional<String> summary() {
            if (batch == null) return Optional.empty();
            var index = batch.index();
            var counts = index.rows() == 0 ? "" : ", " + RowStatus.counts(index::count, Ansi.OFF::by);
            return Optional.of(Text.printable(batch.files().results().toString(), 200)
                    + ": " + Text.count(index.rows(), "row") + counts
                    + batch.history().stopped().map(why -> "; stopped early: " + Text.printable(why, 200)).orElse(""));
        }

        static final class Edits implements UnaryOperator<Row> {
            final Map<String, Map<String, String>> byId = new LinkedHashMap<>();
            private boolean isSaved = true;

            @Override
            public Row apply(Row row) {
                return row.with(of(row));
            }

            /// Returns the edits of a row. Leaves out edits of columns that the CSV no longer has,
            /// because it may have been saved by another program.
            Map<String, String> of(Row row) {
                var cells = new LinkedHashMap<>(byId.getOrDefault(row.id(), Map.of()));
                cells.keySet().retainAll(row.inputs().keySet());
                return cells;
            }

            boolean isUnsaved() {
                return !isSaved && !byId.isEmpty();
            }

            /// Stores new cells of a row. A cell that equals the CSV's is not an edit.
            void set(Row row, Map<String, String> cells) {
                var edited = of(row);
                edited.putAll(cells);
                edited.entrySet().removeAll(row.inputs().entrySet());
                if (edited.isEmpty()) byId.remove(row.id());
                else byId.put(row.id(), edited);
                isSaved = false;
            }

            String summary() {
                return Text.count(byId.values().stream().mapToLong(Map::size).sum(), "edit")
                        + " in " + Text.count(byId.size(), "row");
            }

            /// Writes the CSV with the edits, in its own encoding and delimiter. A character that
            /// the encoding lacks would become `?`, so it is an error. If writing fails, the old
            /// file stays.
            void save(Csv csv, Index index, Path to) {
                if (!csv.file().charset().newEncoder().canEncode(byId.toString()))
                    throw new Unusable(to + ": " + csv.file().charset() + " cannot encode a character of an edit");
                var all = new BitSet();
                all.set(0, index.rows());
                // the fingerprints show whether another program has changed the CSV since it was
                // opened
                AtomicFile.write(to, out -> csv.write(out, csv.with(this).rows(all, index::fingerprint)));
                isSaved = true;
            }
        }
    }

    /// Shows a retry of one row. Prints its nodes and text as they arrive, then its outputs. Names
    /// and errors of nodes are cut, because a server's texts may have any length.
    static final class RunView implements Engine.Watcher {
        private final PrintWriter out;
        private final long startedAt = System.nanoTime();
        private boolean isInText = false; // whether the cursor is behind text that has no line break yet

        RunView(PrintWriter out) {
            this.out = out;
        }

        @Override
        public boolean isLive() {
            return true;
        }

        @Override
        public void onStreamEvent(StreamEvent.Live event) {
            switch (event) {
                case StreamEvent.NodeBegan(var title, var type) -> printNode(title, type, "…");
                case StreamEvent.NodeEnded(var title, var type, var status, var seconds, var error) ->
                        printNode(title, type, Text.printable(status, 40) + " in " + Text.seconds(seconds)
                                + Text.around(": ", Text.printable(error, 300), ""));
                case StreamEvent.Chunk(var text) -> Stream.of(text.split("(?<=\n)")).forEach(this::printChunk);
            }
            out.flush();
        }

        /// Prints a part of the text, which may begin or end within a line.
        private void printChunk(String part) {
            if (part.isEmpty()) return;
            if (!isInText) out.print("            | "); // below the titles of nodes, which follow their times
            isInText = true;
            out.print(Text.printable(part.replace("\n", ""), Integer.MAX_VALUE));
            if (part.endsWith("\n")) end();
        }

        private void printNode(String title, String type, String text) {
            say("  %8s  ".formatted(Text.seconds((System.nanoTime() - startedAt) / 1e9)) + Text.printable(title, 40)
                    + (type.isEmpty() || type.equals(title) ? "" : " (" + Text.printable(type, 40) + ")") + " " + text);
        }

        @Override
        public void onOutcome(Row row, Outcome outcome, Response response) {
            end();
            // a run that succeeded may still fail `--require`
            if (outcome.status().isSuccess() && response instanceof Response.Ran ran)
                new RowView(false, out).print(ran.outputs());
        }

        @Override
        public void say(String sentence) {
            end();
            out.println(Text.printable(sentence, 1000));
            out.flush();
        }

        @Override
        public void end() {
            if (isInText) out.println();
            isInText = false;
        }
    }

    /// Prints everything known about a row. Cuts long lines and long values unless `full` is set,
    /// so that the row fits on a few screens. Names, paths and errors are always cut, because a
    /// server's texts may have any length.
    record RowView(boolean full, PrintWriter out) {
        private static final int LONGEST_LINE = 300, MAX_LINES = 40; // characters of a line, lines of a value

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
                out.println("Outputs" + (end.isEdited() ? " (of edited inputs)" : ""));
                print(Json.MAPPER.createObjectNode().setAll(end.outputs()));
            }
        }

        /// Prints the inputs. A value with several lines begins below its name; an
        /// empty one has no line at all.
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

        /// Prints an attempt with its outcomes and forms. It has two outcomes if it was unknown or
        /// paused at first and a look-up found the result later.
        private void printAttempt(LineOffsets.RowEnds.Trace trace) {
            var attempt = "  " + Times.local(trace.attempt().t()) + "  " + trace.attempt().mode();
            if (trace.attempt().edited()) attempt += ", edited";
            var ends = trace.all(EndEvent.class);
            if (ends.isEmpty()) attempt += "  unfinished" + Text.around(", run ", Text.id(trace.run()), "");
            out.println(attempt);
            for (var end : ends) out.println(end(trace, end));
            ends.stream().filter(EndEvent::isUnmet).forEach(end -> print(end.last().outputs()));
            trace.all(FormEvent.class).forEach(form ->
                    out.println("    form " + form.text()
                            + Text.around(", token ", Text.printable(form.token(), 200), "")));
            trace.all(ExpiredEvent.class).forEach(form ->
                    out.println("    form expired: " + Text.printable(form.node(), 60)));
        }

        /// Formats an outcome as a line: `    failed, HTTP 400 after 0.32 s, 26 tokens, run f761…:
        /// Run failed: the model refused this input`
        private static String end(LineOffsets.RowEnds.Trace trace, EndEvent end) {
            var text = "    " + Text.printable(end.outcome().replace('_', ' '), 40);
            if (end.last().http() != 0) text += ", HTTP " + end.last().http();
            text += " after " + Text.seconds(end.last().seconds());
            if (end.last().cost().tokens() != 0) text += ", " + Text.count(end.last().cost().tokens(), "token");
            // the last response may lack the run that the stream began with
            var run = end.last().run().isEmpty() ? trace.run() : end.last().run();
            text += Text.around(", run ", Text.id(run), "");
            // trace.error adds the forms that a paused row waits for
            if (!end.last().error().isEmpty()) text += ": " + Text.printable(trace.error(end), 500);
            return text;
        }

        void print(JsonNode value) {
            printLines("  ", value.isTextual() ? value.asText() : value.toPrettyString());
        }

        private void printLines(String start, String text) {
            Text.printFirst(text.lines().toList(), full ? Long.MAX_VALUE : MAX_LINES,
                    line -> out.println(start + Text.printable(line, full ? Integer.MAX_VALUE : LONGEST_LINE)),
                    "  %s lines (--full)", out);
        }
    }

    // ── Work ─────────────────────────────────────────────────────────────────

    /// Holds the options of `run` and `retry`, and turns them into a batch that the engine can run.
    /// For picocli, a group is only a heading of the help here (`validate = false`), and `order` is
    /// its place there. The groups of other classes come in between.
    static final class Work {
        @Mixin InputOption input;

        @Option(names = {"-o", "--output"}, required = true, paramLabel = "JSONL",
                description = "Write results here; .log and .retry go next to it.")
        @Lasts(Scope.CALL) Path output;

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

        /// Sets a watcher that shows the run of a single row as it happens, instead of the progress
        /// line.
        void showRun(Engine.Watcher watcher) {
            view = Optional.of(watcher);
        }

        /// Runs the selected rows and returns the exit code. If that is impossible, also reports
        /// the reason for `--json`.
        int start(Batch.Selection selection, boolean isFresh) throws Exception {
            try {
                return openAndRun(selection, isFresh);
            } catch (UncheckedIOException | Unusable problem) {
                var unusable = problem instanceof Unusable known ? known : Unusable.of(problem);
                out.report(unusable, setup.out());
                throw unusable;
            }
        }

        /// Opens the files in such an order that an error leaves them unchanged: `--fresh` moves an
        /// earlier batch aside only after the rows and the server were checked.
        private int openAndRun(Batch.Selection selection, boolean isFresh) throws Exception {
            checkOptions(selection);
            var part = Optional.ofNullable(rows.shard).map(Shard::parse);
            var files = BatchFiles.of(part.map(shard -> shard.of(output)).orElse(output));
            // a retry needs an earlier session, but a shard without rows has no files
            if (selection.has(Choice.LISTED) && files.shard().isEmpty()) files.requireStarted();
            files.refuseAsInput(input.csv);
            // a fresh batch ignores how the earlier one read its input
            var continued = isFresh ? Optional.<BatchFiles>empty() : Optional.of(files);
            try (var csv = shape.open(input.csv, workflow.queryColumn, continued).with(setup.edits)) {
                // before any run, because a run whose files cannot be saved is paid
                // for all the same
                out.makeFolder();
                try (var dify = setup.connect(demo.start(csv), workflow.workflowId, retrying,
                        pace.concurrency())) {
                    // in the shell, which shows a single run, this would be repeated for each retry
                    if (demo.isOn && view.isEmpty()) dify.err().println("Demo: using a simulated Dify "
                            + Demo.VERSION + " in this process; nothing leaves this machine, nothing is spent.");
                    var all = readRows(files, csv, dify);
                    // checks as if no row had run, while the earlier batch is still in its place
                    var checked = isFresh ? Optional.of(check(all.select(rows.of(selection)),
                            dify.greet("; nothing was moved or sent"), dify)) : Optional.<Form>empty();
                    // Tests pass a disk that fails instead of FileChannel::force.
                    try (var writer = BatchWriter.open(all, out.noBom, checked.map(_ -> dify.err()),
                            FileChannel::force)) {
                        return run(rows.of(selection), dify, writer, checked);
                    }
                }
            }
        }

        /// Reads the ids of the input. Reports all of its faults, but only the first
        /// if the server does not respond.
        private Batch readRows(BatchFiles files, Csv csv, Connection dify) throws InterruptedException, IOException {
            try {
                return Batch.ofRows(files, csv);
            } catch (Faulty problem) {
                throw refusal(problem, csv.with(files.shard()), dify);
            }
        }

        /// Returns all faults of the input as one error. The message of a single one
        /// is clearer than a list.
        private Unusable refusal(Faulty problem, Csv csv, Connection dify) throws InterruptedException, IOException {
            try {
                var inspection = dify.inspect(workflow, dify.greet("; nothing was sent"), csv);
                // none, if the file was being saved
                boolean areSeveral = inspection.faults().size() + inspection.problems().size() > 1;
                if (areSeveral) return refusal(inspection, dify.err());
                var command = inspection.options().isEmpty() ? "" : ": " + setup.again(inspection.options());
                return new Unusable(problem.what(), problem.hint + command);
            } catch (Unusable _) {
                return problem; // without a server, the other faults cannot be found
            }
        }

        private void checkOptions(Batch.Selection selection) {
            setup.check(retrying);
            if (selection.isSample() && !selection.isLimited()) // only a seed was given
                throw new Unusable("--seed cannot be used without --sample", "add --sample N");
            if (selection.isSample() && rows.limit != null)
                throw new Unusable("--sample cannot be used with --limit", "leave one of them out");
            Requirement.all(workflow.require);
            if (output.toString().toLowerCase(Locale.ROOT).matches(".*\\.(csv|tsv|xlsx?)"))
                throw new Unusable(output + ": results are JSON lines, not a spreadsheet",
                        "use -o results.jsonl; 'export' then writes a spreadsheet");
        }

        /// Selects rows, asks the server about the app, checks the rows against its
        /// form, and runs them. So a mistake is found before the server is asked,
        /// and a wrong server or app before a row is sent.
        ///
        /// @param checked the form against which `--fresh` has checked the rows already
        private int run(Batch.Selection selection, Connection dify, BatchWriter writer, Optional<Form> checked)
                throws Exception {
            var batch = writer.batch();
            var err = dify.err();
            var origin = new Origin(batch.files(), batch.history().last(SessionEvent.class));
            // first, because the results of a finished batch could be taken for this server's
            origin.requireServer(dify.access().name(), "add --demo, or choose another -o");
            announceShard(batch, selection);
            // the rows of a CSV that was given by mistake would be paid for
            if (!rows.add) batch.refuseOtherFile(input.csv, "; to add its rows to the batch, pass --add");
            var wanted = batch.select(selection);
            StatusView.notes(batch).forEach(note -> err.println("Note: " + note + "."));
            // failed rows that `run` leaves out must not be overlooked
            boolean hasKept = batch.history().kept(false).findAny().isPresent();
            var fine = hasKept && !selection.isPart() ? Exit.ROWS_FAILED : Exit.OK;
            // even without rows to run, a run is looked up if it has not appeared
            // and its row was sent again
            if (wanted.rows() == 0 && batch.history().awaited().isEmpty()) {
                recordRequirements(writer);
                writer.finish(err::println).ifPresent(stop -> {
                    throw stop.asError();
                });
                err.println("Nothing to do: " + whyNothing(selection, batch.index()) + ".");
                // with the typed options, such as --var, because a session that
                // sends nothing does not record them
                if (batch.history().changed().findAny().isPresent())
                    err.println("Next: " + setup.again(List.of("--rerun-changed")));
                return finish(batch, Optional.empty(), fine, new Tally(wanted, null, InstantSource.system()));
            }
            if (!demo.isOn && view.isEmpty() && out.progress != Progress.Style.OFF)
                err.println("Connecting to " + setup.server.baseUrl.getHost() + " …");
            announceResumption(wanted);
            var server = dify.greet("; nothing was sent");
            var app = dify.identify(origin, server.kind(), "; nothing was sent");
            var form = checked.isPresent() ? checked.get() : check(wanted, server, dify);
            var mode = mode(selection, server.kind());
            var modes = batch.history().modePolicy(mode, server.kind(), server.version());
            modes.note().ifPresent(err::println);
            var require = new ArrayList<>(workflow.require);
            if (require.isEmpty()) batch.history().last(SessionEvent.class).map(SessionEvent::call).map(
                    SessionEvent.Call::require).ifPresent(require::addAll);
            var terms = terms(modes, dify.judge().requiring(Requirement.all(require)));
            var client = dify.client().forApp(server.kind());
            var sender = new Sender(client, form, Optional.ofNullable(out.saveFiles), terms.judge().requirements());
            // recorded for `verify`, which otherwise reports a second run of a row as paid twice
            boolean isAgain = selection.has(Choice.AGAIN) || selection.has(Choice.RERUN_CHANGED)
                    || selection.has(Choice.RESEND_UNKNOWN);
            var options = setup.typed();
            writer.record(SessionEvent.of(batch, new SessionEvent.Server(dify.access().name(), app, server.version(),
                    server.app()), new SessionEvent.Call(options, isAgain, require)).with(Instant.now(), modes.mode(),
                            mode == Mode.AUTO, writer.resultsBytesOnDisk()));
            var watcher = view.orElseGet(() -> new Progress(err, out.progress));
            var engine = new Engine(wanted, terms, writer, Engine.Ports.ofProcess(sender, watcher));
            var stop = engine.runUntilWritten();
            // what is not on disk must not be counted, and the next command counts the rest
            if (!writer.isSaved()) throw stop.orElseThrow().asError();
            summarize(selection, batch, engine.tally, stop);
            var done = engine.tally.isAllDone() ? fine : Exit.ROWS_FAILED;
            return finish(batch, stop, stop.map(Stop::exit).orElse(done), engine.tally);
        }

        /// Records another `--require`, which later sessions apply, too, although no row is sent.
        /// The server was not asked, so the event repeats what the last session saw of it.
        private void recordRequirements(BatchWriter writer) {
            var last = writer.batch().history().last(SessionEvent.class);
            if (workflow.require.isEmpty() || last.isEmpty()
                    || last.get().call().require().equals(workflow.require)) return;
            var call = new SessionEvent.Call(last.get().call().typed(), false, workflow.require);
            var now = Instant.now();
            writer.record(SessionEvent.of(writer.batch(), last.get().dify(), call)
                    .with(now, last.get().mode(), last.get().auto(), writer.resultsBytesOnDisk()));
            writer.recordStop(now, Optional.empty());
        }

        private void summarize(Batch.Selection selection, Batch batch, Tally tally, Optional<Stop> stop) {
            // the user then wants to know what is left
            boolean isPart = selection.isLimited() || pace.maxCost != null;
            var forecast = isPart ? Forecast.of(batch) : Optional.<Forecast>empty();
            // the version that was refused would be refused again
            var why = stop.map(Stop::what).orElse("");
            var next = limited(selection, forecast.flatMap(Forecast::maxCost)).only(option ->
                    !option.name().equals("--workflow-id") || !why.contains(option.name())).suggestNext(batch);
            new Summary(batch, tally, setup.err(), Ansi.ofErr(setup.env)).print(stop, selection, forecast, next);
        }

        /// After a sample, adds `--max-cost` with the estimated cost to the suggested command.
        private NextCall limited(Batch.Selection selection, Optional<String> cost) {
            // a blocking run has no price, so --max-cost is not possible
            boolean isNew = selection.isSample() && pace.maxCost == null && workflow.mode != Mode.BLOCKING;
            return isNew && cost.isPresent() ? setup.next().with("--max-cost", cost.get()) : setup.next();
        }

        private static String whyNothing(Batch.Selection selection, Index index) {
            if (index.rows() == 0) return "this shard has no rows";
            if (index.isComplete()) return "every row has succeeded";
            if (!selection.has(Choice.LISTED) || index.onRetryList().findAny().isPresent())
                return "no selected row needs a run";
            return "no row has failed; 'run' runs the "
                    + Text.count(index.count(RowStatus.PENDING), "pending row", "pending rows");
        }

        /// Prints `shard 3 of 8: 1,250 of 10,000 rows`. Ids of other shards are skipped, so that
        /// all shards can be started with the same arguments.
        private void announceShard(Batch batch, Batch.Selection selection) {
            var shard = batch.files().shard();
            if (shard.isEmpty()) return;
            int count = batch.index().rows();
            setup.err().println("shard " + shard.get().index() + " of " + shard.get().count() + ": "
                    + Text.number(count) + " of " + Text.number(count + batch.index().rowsOfOtherShards()) + " rows");
            var others = selection.ids().stream().map(String::strip).distinct()
                    .filter(id -> !shard.get().holds(id)).toList();
            if (!others.isEmpty()) setup.err().println("Note: skipping " + Text.count(others.size(), "id")
                    + " of other shards (" + Text.joinFirst(3, others.stream().map(Text::id)) + ").");
        }

        /// Prints how far an earlier session came: `Resuming: 332 of 800 rows done
        /// (8 failed will be retried)`
        private void announceResumption(Batch.Wanted wanted) {
            var batch = wanted.batch();
            boolean isFirst = batch.history().last(SessionEvent.class).isEmpty();
            // if only part of the batch was selected, the other rows are not necessarily done
            if (wanted.asked().isPart() || isFirst || view.isPresent()) return;
            long failed = wanted.count(RowStatus.FAILED);
            setup.err().println("Resuming: " + Text.number(batch.index().rows() - wanted.rows()) + " of "
                    + Text.count(batch.index().rows(), "row") + " done"
                    + (failed == 0 ? "" : " (" + Text.number(failed) + " failed will be retried)"));
        }

        private Form check(Batch.Wanted wanted, ServerInfo server, Connection dify) throws InterruptedException {
            if (pace.maxCost != null && workflow.mode == Mode.BLOCKING && server.kind() == AppKind.WORKFLOW)
                throw new Unusable("--max-cost cannot be used with --mode blocking: "
                        + "only a workflow's streams have prices", "leave out --mode");
            var csv = wanted.batch().csv().orElseThrow();
            var form = dify.form(workflow, server, csv);
            var inspector = new Inspection.Inspector(csv, form);
            csv.rows(wanted.entries(), wanted.batch().index()::fingerprint).forEachRemaining(inspector);
            var inspection = inspector.inspection(workflow.allowUnmapped);
            if (!inspection.isFine()) throw refusal(inspection, dify.err());
            CheckView.printProblems(inspection, Screen.on(2).map(Screen::width), dify.err());
            return form;
        }

        /// Prints the problems and returns the error that ends the command. Its hint is a command
        /// that solves them all, unless the user must change rows.
        private Unusable refusal(Inspection inspection, PrintWriter err) {
            CheckView.printProblems(inspection, Screen.on(2).map(Screen::width), err);
            int count = inspection.faults().size() + inspection.problems().size();
            var hint = inspection.options().isEmpty() ? "correct the rows and columns; --allow-unmapped sends rows "
                    + "although columns do not match, and --no-check sends all cells as text"
                    : inspection.stepsBefore() + setup.again(inspection.options());
            return new Unusable(input.csv + ": " + Text.count(count, "problem") + "; nothing was sent", hint);
        }

        private Engine.Terms terms(ModePolicy modes, Judge judge) {
            // a user who presses Ctrl-C while watching a single run does not want to
            // wait for its end
            var grace = view.isPresent() ? Duration.ZERO : retrying.grace;
            var limits = new Limits(pace.maxFailures, pace.maxTokens, pace.maxCost, grace, retrying.timeout,
                    retrying.settle);
            return new Engine.Terms(judge, limits, new Pace(pace.concurrency()), new Gate(pace.wait, pace.rate), modes,
                    new Attempt.UserNames(retrying.user));
        }

        /// Chooses streaming instead of `auto` if prices or a live view are needed. Only workflows
        /// have no prices in blocking mode, and only runs are shown live.
        private Mode mode(Batch.Selection selection, AppKind kind) {
            boolean needsPrices = pace.maxCost != null || selection.isSample();
            boolean needsStream = needsPrices && kind == AppKind.WORKFLOW || view.isPresent() && kind.hasRuns();
            return workflow.mode == Mode.AUTO && needsStream ? Mode.STREAMING : workflow.mode;
        }

        /// Reports the session's outcome for `--json`. Scripts rely on the keys and their order.
        private int finish(Batch batch, Optional<Stop> stop, Exit exit, Tally tally) {
            var files = batch.files();
            var end = StatusView.json(StatusView.counts(batch.index()::count));
            end.putAll(object("exit_code", exit.code, "reason", stop.map(Stop::what).orElse(null),
                    "seconds", tally.elapsed().toMillis() / 1000.0, "total_tokens", tally.spending.tokens(),
                    "cost", tally.spending.prices(), "files", object("results", files.results().toString(),
                            "log", files.log().toString(), "retry", files.retry().toString()),
                    "forecast", Forecast.of(batch).map(Forecast::json).orElse(null)));
            out.report(end, setup.out());
            return exit.code;
        }

        /// Reports an unusable command line for `--json`. picocli may have stopped before it read
        /// that option.
        static void report(Unusable problem, CommandLine line, List<String> words) {
            // the `--json` of other commands is not an outcome
            if (!Set.of("run", "retry").contains(line.getCommandName())) return;
            var out = new OutputOptions();
            out.json = words.contains("--json");
            out.report(problem, line.getOut());
        }

        static final class RowOptions {
            @Option(names = "--shard", paramLabel = "I/N", hidden = true,
                    description = "Run only shard I of N, in files of its own.")
            String shard;

            @Option(names = "--limit", paramLabel = "N", description = "Run at most N of these rows, in file order.")
            @Lasts(Scope.CALL) Long limit;

            @Option(names = "--resend-unknown", description = "Resend paused and unknown rows; you may pay twice.")
            @Lasts(Scope.CALL) boolean resendUnknown;

            @Option(names = "--add", hidden = true,
                    description = "Add these rows although the batch has none of their ids yet.")
            @Lasts(Scope.CALL) boolean add;

            Batch.Selection of(Batch.Selection typed) {
                return new Batch.Selection(typed.choices(), typed.ids(), limit == null ? typed.limit() : limit,
                        typed.seed()).with(Choice.RESEND_UNKNOWN, resendUnknown);
            }
        }

        static final class PaceOptions {
            /// A larger number is probably a mistake. Each run needs a connection, and Linux has
            /// some 28,000 ports for connections.
            private static final int MAX_CONCURRENCY = 10_000;

            @Option(names = {"-c", "--concurrency"}, paramLabel = "N",
                    description = "Run N rows at a time (default: 5; 1 with --wait).")
            Long concurrency;

            @Option(names = {"-w", "--wait"}, paramLabel = "SEC",
                    description = "Run one row at a time with this pause between rows.")
            Duration wait;

            @Option(names = "--rate", paramLabel = "N/s|N/m|N/h",
                    description = "Start at most N runs per second, minute or hour.")
            Pace.Rate rate;

            @Option(names = "--max-failures", paramLabel = "N|N%",
                    description = "Stop after N failed rows, or N%% of the rows (from row 20 on); off: never "
                            + "(default: if the first 20 fail for the same reason).")
            Limits.Ceiling maxFailures;

            @Option(names = "--max-tokens", paramLabel = "N", description = "Stop when the batch has used N tokens.")
            Long maxTokens;

            @Option(names = "--max-cost", paramLabel = "AMOUNT",
                    description = "Stop when the batch has cost this much, such as 5 or 0.5; running rows finish. "
                            + "Workflows then use streaming, because only streams report prices.")
            BigDecimal maxCost;

            /// Returns how many rows may run at a time. The default, that of Dify's own batch page,
            /// leaves half of the ten connections of a default server to other users.
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
            @Lasts(Scope.CALL) boolean json;

            @Option(names = "--save-files", paramLabel = "DIR",
                    description = "Download files in the outputs into this folder.")
            Path saveFiles;

            @Option(names = "--progress", paramLabel = "HOW", defaultValue = "auto", hidden = true,
                    description = "Show progress: ${COMPLETION-CANDIDATES} (default: ${DEFAULT-VALUE}).")
            Progress.Style progress;

            void report(Unusable problem, PrintWriter out) {
                var reason = Text.printable(problem.what(), 1000);
                report(object("exit_code", problem.exit.code, "reason", reason), out);
            }

            /// Prints the session's outcome as one line.
            void report(Map<String, Object> outcome, PrintWriter out) {
                if (json) out.println(Json.text(outcome).replace("\n", ""));
            }

            /// Creates the folder of `--save-files`, and removes the incomplete downloads of killed
            /// processes from it.
            void makeFolder() {
                if (saveFiles == null) return;
                try {
                    Files.createDirectories(saveFiles);
                    Temporary.removeAbandoned(saveFiles, Temporary.HIDDEN_PREFIX);
                    AtomicFile.forceFolder(saveFiles);
                } catch (IOException problem) {
                    throw new Unusable("--save-files " + saveFiles + ": cannot create the folder ("
                            + Text.reason(problem) + ")", "name a writable folder");
                }
            }
        }
    }

    // ── Verification ─────────────────────────────────────────────────────────

    /// Checks a batch against the server's records. It interprets log and results itself and shares
    /// no decision with the engine, so that it can find the engine's mistakes.
    record Verification(Evidence evidence, DifyClient client, AppKind app, Optional<Pace.Rate> rate) {
        /// Limits the rows that are checked at the same time, because a batch may be running and a
        /// Dify with default settings accepts only ten connections.
        static final int ROWS_AT_ONCE = 4;

        /// Holds the outcomes after which the next `run` looks an attempt up; empty
        /// for one without an outcome.
        private static final Set<String> LOOKED_UP = Set.of("", "unknown", "paused", "interrupted");

        /// Holds an attempt and the session that sent it.
        record Sent(String id, String user, Event.SessionEvent session) {}

        /// Holds what a batch's log contains, and where in the results its lines
        /// are, which may not fit into memory.
        ///
        /// @param attempts by row id
        /// @param runs     by user; only runs that the log contains
        /// @param outcomes by user; an attempt without a known outcome has none
        /// @param places   the offsets in the results of all lines of each row, by
        ///                 its id; the last line counts
        record Evidence(BatchFiles files, Map<String, List<Sent>> attempts, Map<String, RunRef> runs,
                Map<String, String> outcomes, Map<String, List<Long>> places) {
            /// Reads the whole log before the results, because a later event changes what an
            /// earlier one means. The `switch` has a case for every kind of event, so that a new
            /// kind does not compile until it is handled.
            static Evidence of(BatchFiles files) throws IOException {
                var read = new Evidence(files, new LinkedHashMap<>(), new HashMap<>(), new HashMap<>(),
                        new LinkedHashMap<>());
                var session = new AtomicReference<Event.SessionEvent>();
                var ofSession = new ArrayList<String>();
                var sizeOfResults = new AtomicLong();
                var unreadable = Event.scan(files.log(), (event, _) -> {
                    if (event.results() >= 0) sizeOfResults.set(event.results());
                    switch (event) {
                        case Event.SessionEvent started -> {
                            started.requireFormat(files.log());
                            session.set(started);
                            ofSession.clear();
                        }
                        case Event.AttemptEvent sent -> {
                            ofSession.add(sent.user());
                            // most rows have one attempt, and a batch may have a million rows
                            read.attempts.computeIfAbsent(sent.id(), _ -> new ArrayList<>(1))
                                    .add(new Sent(sent.id(), sent.user(), session.get()));
                        }
                        case Event.RunEvent run -> read.runs.put(run.user(), new RunRef(run.run(), run.task()));
                        case Event.EndEvent end -> {
                            read.outcomes.put(end.user(), end.isUnmet() ? "unmet" : end.outcome());
                            // the run of a blocking request has no event of its own
                            var run = end.last().run();
                            if (!run.isEmpty()) read.runs.putIfAbsent(end.user(), new RunRef(run, ""));
                        }
                        // A success has no event. If a session did not stop early,
                        // all its other attempts succeeded. An event with a user
                        // only records that Dify was asked to stop a run.
                        case Event.StopEvent stop -> {
                            if (stop.user().isEmpty() && stop.why().isEmpty())
                                ofSession.forEach(user -> read.outcomes.putIfAbsent(user, "succeeded"));
                        }
                        // The run is no longer paused or unknown. If it failed,
                        // another `end` event follows.
                        case Event.HarvestEvent taken -> read.outcomes.remove(taken.user());
                        // These record what the engine did or concluded, which is not evidence.
                        case Event.LookEvent _, Event.ThrottleEvent _, Event.LateEvent _, Event.ResponseEvent _,
                                Event.ExpiredEvent _, Event.FormEvent _, Event.MergeEvent _, Event.TornEvent _ -> {}
                    }
                });
                if (read.attempts.isEmpty()) throw new Unusable(files.log() + ": no attempts to verify");
                // Only the results record a success. If lines of them are missing, any attempt
                // without an outcome may have succeeded, and its run is then lost, not open.
                if (files.resultsSize() < sizeOfResults.get()) read.attempts.values().forEach(all ->
                        all.forEach(sent -> read.outcomes.putIfAbsent(sent.user(), "succeeded")));
                unreadable.addAll(ResultLine.scan(files.results(), false, (result, line) ->
                        read.places.computeIfAbsent(result.id(), _ -> new ArrayList<>(1)).add(line.place())));
                if (!unreadable.isEmpty()) throw new Unusable(unreadable.getFirst() + ": cannot read this line");
                return read;
            }

            /// Returns all ids, or `sample` random ones. Includes ids that are only in the results,
            /// although no attempt of them is known.
            List<String> ids(Long sample, Long seed) {
                var all = Stream.of(attempts, places).map(Map::keySet).flatMap(Set::stream).distinct()
                        .collect(Collectors.toCollection(ArrayList::new));
                if (sample == null) return all;
                Collections.shuffle(all, seed == null ? new Random() : new Random(seed));
                return all.subList(0, (int) Math.min(all.size(), sample));
            }

            List<Sent> attempts(String id) {
                return attempts.getOrDefault(id, List.of());
            }

            List<ResultLine> results(String id) {
                try (var lines = new Lines(files.results())) {
                    return places.getOrDefault(id, List.of()).stream()
                            .map(place -> new ResultLine(lines.seek(place).tree())).toList();
                }
            }
        }

        /// Classifies a finding. The report lists the kinds in this order.
        enum Kind implements Named {
            /// The result agrees with the server's record.
            MATCHES,
            /// The server lists runs as soon as they start, and it lists none for this attempt.
            NEVER_STARTED,
            /// The run failed or was stopped, or the log records that a required
            /// output was missing.
            FAILED,
            /// The run has not ended according to Dify's record, or it succeeded and
            /// the next `run` takes its result.
            OPEN,
            /// An additional run of a row that the user sent again, as with `retry --again`.
            SENT_AGAIN,
            /// An additional run that succeeded or still may succeed, although
            /// nobody asked to send the row again.
            PAID_TWICE,
            /// Two results belong to the same run.
            DUPLICATED,
            /// The result belongs to a run that no attempt of its row started.
            WITHOUT_RUN,
            /// The run succeeded, but its row has no result.
            LOST,
            /// The result differs from the server's record.
            DIFFERS,
            /// The server cannot show the run, because it is deleted or was never
            /// listed, or the reply is unusable.
            NOT_VERIFIABLE,
            /// The server did not respond.
            NO_ANSWER;

            /// These should never occur, so the report contains them even with a count of 0.
            static final Set<Kind> WRONG = EnumSet.of(PAID_TWICE, DUPLICATED, WITHOUT_RUN, LOST, DIFFERS);
            /// These are as expected, so the report does not list their rows.
            static final Set<Kind> ONLY_COUNTED = EnumSet.of(MATCHES, NEVER_STARTED, FAILED, OPEN);
            static final Map<Kind, String> TITLES = Map.of(FAILED, "failed run", DUPLICATED,
                    "two results of a run", WITHOUT_RUN, "result of another run", LOST, "result is missing",
                    NOT_VERIFIABLE, "not shown by Dify");
        }

        record Finding(Kind kind, String id, String text) {}

        static void print(Map<Kind, List<Finding>> found, PrintWriter out) {
            for (var kind : Kind.values()) {
                var all = found.getOrDefault(kind, List.of());
                if (!all.isEmpty() || Kind.WRONG.contains(kind))
                    out.println("  %-22s %,9d".formatted(Kind.TITLES.getOrDefault(kind, kind.word()), all.size()));
                // 50 of a kind are enough to see a pattern
                if (!Kind.ONLY_COUNTED.contains(kind)) Text.printFirst(all, 50, one -> out.println("    "
                        + Text.id(one.id()) + ", " + Text.printable(one.text(), 200)), "    %s (--json)", out);
            }
        }

        /// Returns the exit code: success only if something was confirmed. Otherwise, another app
        /// may have responded, or all runs may be deleted.
        ///
        /// @param hasResults if false, there is no result to confirm, and a known run is enough
        static Exit exit(Set<Kind> found, boolean hasResults) {
            if (!Collections.disjoint(found, Kind.WRONG)) return Exit.ROWS_FAILED;
            boolean isRunKnown = found.contains(Kind.FAILED) || found.contains(Kind.OPEN);
            boolean isConfirmed = found.contains(Kind.MATCHES) || !hasResults && isRunKnown;
            return isConfirmed && !found.contains(Kind.NO_ANSWER) ? Exit.OK : Exit.STOPPED;
        }

        /// Checks these rows, several at a time. An interrupt ends the requests in
        /// flight, and no others start.
        Map<Kind, List<Finding>> checkRows(List<String> ids, PrintWriter err)
                throws InterruptedException, ExecutionException {
            var screen = Screen.on(2);
            var done = new AtomicInteger();
            var found = new TreeMap<Kind, List<Finding>>();
            try (var workers = Executors.newFixedThreadPool(ROWS_AT_ONCE, Thread.ofVirtual().factory())) {
                var rows = workers.invokeAll(ids.stream().<Callable<List<Finding>>>map(id -> () -> {
                    var findings = row(id);
                    int count = done.incrementAndGet();
                    if (count % 20 > 0 || screen.isEmpty()) return findings;
                    err.print(count + "/" + ids.size() + " rows\r"); // the next line overwrites it
                    err.flush();
                    return findings;
                }).toList());
                for (var row : rows) for (var finding : row.get())
                    found.computeIfAbsent(finding.kind(), _ -> new ArrayList<>()).add(finding);
            }
            return found;
        }

        /// Checks the result of a row first, then all other runs. Even the attempt that led to the
        /// result may have others, if a proxy repeated its request.
        private List<Finding> row(String id) {
            var lines = evidence.results(id);
            var line = lines.isEmpty() ? ResultLine.NONE : lines.getLast();
            var own = evidence.attempts(id).stream().filter(sent -> sent.user().equals(line.user())).findFirst();
            var runs = new LinkedHashMap<Sent, DifyClient.Reply<List<JsonNode>>>();
            for (var sent : evidence.attempts(id))
                runs.put(sent, own.equals(Optional.of(sent)) ? runs(sent) : withNamedRun(sent, runs(sent)));
            var found = new ArrayList<Finding>();
            // of completions, only the reason is added, below
            if (!lines.isEmpty() && app != AppKind.COMPLETION)
                found.add(own.map(sent -> result(sent, line, runs.get(sent))).orElseGet(() ->
                        new Finding(Kind.WITHOUT_RUN, id, "no attempt of this row has " + name(line))));
            boolean isPaid = !found.isEmpty() && found.getFirst().kind() != Kind.WITHOUT_RUN;
            if (lines.stream().map(Verification::name).distinct().count() < lines.size())
                found.add(new Finding(Kind.DUPLICATED, id, "two results come from one run"));
            for (var sent : runs.keySet()) {
                boolean isAsked = sent.session().call().again()
                        || own.isPresent() && own.get().session().call().again();
                if (runs.get(sent) instanceof DifyClient.Reply.NotGot(var why)) found.add(unseen(sent, why));
                else if (known(runs.get(sent)).isEmpty() && !own.equals(Optional.of(sent))) found.add(unlisted(sent));
                for (var run : known(runs.get(sent))) if (!isOf(line, run)) {
                    var kind = kind(run, evidence.outcomes().getOrDefault(sent.user(), ""), isPaid, isAsked);
                    // with a result, the row is already a WITHOUT_RUN
                    if (kind != Kind.LOST || lines.isEmpty())
                        found.add(finding(kind, sent, "run " + Json.text(run, "id") + " of " + sent.user()));
                    isPaid |= kind != Kind.FAILED && kind != Kind.NOT_VERIFIABLE;
                }
            }
            return found;
        }

        private static List<JsonNode> known(DifyClient.Reply<List<JsonNode>> runs) {
            return runs instanceof DifyClient.Reply.Got(var all) ? all : List.of();
        }

        /// Classifies a run that did not produce the row's result:
        ///
        /// | run | outcome in the log | row paid | asked | kind |
        /// | --- | --- | --- | --- | --- |
        /// | failed or unclear | any | any | any | `FAILED`, `NOT_VERIFIABLE` |
        /// | succeeded | a required output was missing | any | any | `FAILED` |
        /// | succeeded or active | any | yes | yes | `SENT_AGAIN` |
        /// | succeeded or active | any | yes | no | `PAID_TWICE` |
        /// | succeeded or active | none, or one that is looked up | no | any | `OPEN` |
        /// | succeeded, active | any other | no | any | `LOST`, `OPEN` |
        ///
        /// @param isPaid  whether the row has a result, or an earlier run of it
        ///                succeeded or still may succeed
        /// @param isAsked whether the user asked to send rows again in the session
        ///                of this run or of the result
        private Kind kind(JsonNode run, String outcome, boolean isPaid, boolean isAsked) {
            var status = status(run);
            if (status == Kind.FAILED || status == Kind.NOT_VERIFIABLE) return status;
            if (status == Kind.LOST && outcome.equals("unmet")) return Kind.FAILED; // see [Evidence#of]
            if (isPaid) return isAsked ? Kind.SENT_AGAIN : Kind.PAID_TWICE;
            return LOOKED_UP.contains(outcome) ? Kind.OPEN : status;
        }

        /// Classifies a run, or a chatflow's message, of a row without a result. Dify marks a
        /// message as `normal` from the start. If it has no answer, its run is running, was
        /// stopped, or was lost when its server ended, so it shows nothing. Without a run, 0 tokens
        /// of a message that has ended show that it was stopped.
        private Kind status(JsonNode stored) {
            boolean isStopped = !app.hasRuns() && stored.path("provider_response_latency").asDouble(0) > 0
                    && stored.path("total_tokens").asInt(1) == 0;
            if (isStopped) return Kind.FAILED;
            return switch (Json.text(stored, "status")) {
                case "succeeded", "partial-succeeded" -> Kind.LOST;
                case "normal" -> Json.text(stored, "answer").isEmpty() ? Kind.NOT_VERIFIABLE : Kind.LOST;
                case "running", "scheduled", "paused" -> Kind.OPEN;
                case "failed", "stopped", "error" -> Kind.FAILED;
                default -> Kind.NOT_VERIFIABLE;
            };
        }

        /// Asks for the runs of an attempt's user. Dify lists no runs of a chatflow, so there it
        /// asks for the messages of the user's conversations. An attempt has its own user, so one
        /// page of 100 entries, the most that Dify allows, is always enough. Each list must be
        /// whole and contain only entries of this user, otherwise it is an error, see
        /// [DifyClient#list].
        private DifyClient.Reply<List<JsonNode>> runs(Sent sent) {
            if (app == AppKind.COMPLETION)
                return new DifyClient.Reply.NotGot<>(Response.Refused.unexpected("Dify shows no completions"));
            var user = DifyClient.encoded(sent.user());
            if (app == AppKind.WORKFLOW) return ask(() -> client.list(
                    "/workflows/logs?limit=100&created_by_end_user_session_id=" + user,
                    row -> row.at("/created_by_end_user/session_id").asText().equals(sent.user())
                            && row.at("/workflow_run/id").isTextual())).then(rows ->
                    new DifyClient.Reply.Got<>(rows.stream().map(row -> row.path("workflow_run")).toList()));
            return ask(() -> client.list("/conversations?limit=100&user=" + user, one -> one.path("id").isTextual()))
                    .then(conversations -> messages(user, conversations));
        }

        /// Asks for all messages of these conversations, or returns the failure. An incomplete list
        /// could look like a run that never started.
        private DifyClient.Reply<List<JsonNode>> messages(String user, List<JsonNode> conversations) {
            var all = new ArrayList<JsonNode>();
            for (var conversation : conversations) {
                var id = Json.text(conversation, "id");
                var messages = ask(() -> client.list("/messages?limit=100&user=" + user + "&conversation_id="
                        + DifyClient.encoded(id), message -> id.equals(Json.text(message, "conversation_id"))));
                if (messages instanceof DifyClient.Reply.NotGot) return messages;
                all.addAll(known(messages));
            }
            return new DifyClient.Reply.Got<>(all);
        }

        /// Asks for the details of a run. Checks the id, because Dify 1.9 responds to an unknown id
        /// with 200 and nulls.
        private DifyClient.Reply<JsonNode> detail(String run) {
            return ask(() -> client.fetch("/workflows/run/" + DifyClient.encoded(run))).then(stored ->
                    Json.text(stored, "id").equalsIgnoreCase(run) ? new DifyClient.Reply.Got<>(stored)
                    : new DifyClient.Reply.NotGot<>(Response.Refused.unexpected("Dify returned a different run")));
        }

        /// Sends a request at the pace of `--rate`. Sends it up to four times if a response asks
        /// for a pause, as many times as `run` does by default. Rows are checked in parallel, and
        /// all of them wait at one lock, so that they keep the pace together.
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

        /// Adds the run that the log contains if the list lacks it, because Dify 1.9 does not list
        /// a stream whose client disconnected. In a chatflow, the run replaces the only message,
        /// which may contain text of a run that was stopped. Dify makes up the events of a rejected
        /// row, with an id that belongs to no run, so that run is not asked for.
        private DifyClient.Reply<List<JsonNode>> withNamedRun(Sent sent, DifyClient.Reply<List<JsonNode>> listed) {
            if (!app.hasRuns()) return listed;
            return listed.then(runs -> {
                var run = evidence.runs().getOrDefault(sent.user(), RunRef.NONE);
                // with several messages, it is unclear which one the run would replace
                boolean isListed = runs.size() > 1
                        || runs.stream().anyMatch(one -> Json.text(one, "id").equals(run.id()));
                if (!run.isNamed() || run.isMadeUp() || isListed) return listed;
                var named = detail(run.id());
                // if the run is gone, the listed ones can still be checked
                if (named instanceof DifyClient.Reply.NotGot && !runs.isEmpty()) return listed;
                return named.then(stored -> new DifyClient.Reply.Got<>(app == AppKind.CHATFLOW ? List.of(stored)
                        : Stream.concat(runs.stream(), Stream.of(stored)).toList()));
            });
        }

        /// Returns the finding about an attempt without runs. An empty list shows that none was
        /// started only if the server lists each run from its start. Every version lists a
        /// chatflow's conversation from the start of its run.
        private Finding unlisted(Sent sent) {
            var version = Release.of(sent.session().dify().version());
            boolean isListed = app != AppKind.WORKFLOW || version.listing() == Release.Listing.FROM_START;
            return finding(isListed ? Kind.NEVER_STARTED : Kind.NOT_VERIFIABLE, sent,
                    "Dify shows no run of user " + sent.user());
        }

        /// Returns the finding if a request failed. It is `NOT_VERIFIABLE` if asking again is
        /// useless, because Dify itself (not a proxy) responds that the run is gone, or the
        /// response has status 200 but unusable content. Otherwise, it is `NO_ANSWER`.
        private static Finding unseen(Sent sent, Response why) {
            boolean isLasting = why instanceof Response.Refused refused
                    && (refused.status() == 200 || refused.status() == 404 && refused.dify());
            return finding(isLasting ? Kind.NOT_VERIFIABLE : Kind.NO_ANSWER, sent, why.why());
        }

        private static Finding finding(Kind kind, Sent sent, String text) {
            return new Finding(kind, sent.id(), text);
        }

        private static String name(ResultLine line) {
            return line.run().isEmpty() ? "message " + line.text("message_id") : "run " + line.run();
        }

        private static boolean isOf(ResultLine line, JsonNode run) {
            var id = Json.text(run, "id");
            return id.equalsIgnoreCase(line.run()) || id.equals(line.text("message_id"))
                    && Json.text(run, "conversation_id").equals(line.text("conversation_id"));
        }

        /// Compares a result with its run, in a chatflow together with its message. The result of a
        /// blocking chatflow has no run id; its run is known only if it paused. If the run is gone,
        /// but the list has other runs of this user, the result is not from any of them.
        private Finding result(Sent sent, ResultLine line, DifyClient.Reply<List<JsonNode>> listed) {
            var runs = known(listed);
            boolean isChat = app != AppKind.WORKFLOW;
            var other = finding(Kind.WITHOUT_RUN, sent, name(line) + " is not by user " + sent.user());
            var message = runs.stream().filter(one -> isChat && isOf(line, one)).findFirst()
                    .orElseGet(Json.MAPPER::missingNode);
            if (isChat && runs.isEmpty()) return finding(Kind.NOT_VERIFIABLE, sent, "no message of " + name(line));
            if (isChat && message.isMissingNode()) return other;
            var run = new StoredMessage(message, AppKind.CHATFLOW).pausedRun().map(RunRef::id).orElse(line.run());
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

        /// Returns whether this attempt's user started the run. Dify records the user among the
        /// inputs. Without this record, nothing contradicts it.
        private static boolean isBy(Sent sent, JsonNode run) {
            return parsed(run.path("inputs")).path("sys.user_id").asText(sent.user()).equals(sent.user());
        }

        /// Combines the record of a chatflow's run with its message, because only the message
        /// contains the text by which moderation replaced an answer. The run's answer counts if the
        /// message may be incomplete, which happens after a pause (seen on Dify 1.14 to 1.16.1), or
        /// on 1.9 if the client disconnected. In blocking mode the run may be unknown, and `run` is
        /// the message. Its status `normal` then shows nothing and is left out.
        private static JsonNode withMessage(JsonNode run, JsonNode message) {
            var outputs = parsed(run.path("outputs")) instanceof ObjectNode known ? known
                    : Json.MAPPER.createObjectNode();
            boolean isWhole = new StoredMessage(message, AppKind.CHATFLOW).pausedRun().isEmpty()
                    && !Json.text(message, "answer").isEmpty();
            if (isWhole || !outputs.has("answer")) outputs.set("answer", message.path("answer"));
            // a result has no empty list of files either
            if (outputs.path("files").isEmpty()) outputs.remove("files");
            return Json.MAPPER.createObjectNode().put("status", Json.text(run, "status").replace("normal", ""))
                    .<ObjectNode>set("outputs", outputs).<ObjectNode>set("inputs", message.path("inputs"))
                    .set("query", message.path("query"));
        }

        /// Compares a result with the server's record. After a crash, a record may
        /// stay `running` forever.
        private Finding compare(Sent sent, ResultLine line, JsonNode stored) {
            if (status(stored) == Kind.OPEN)
                return finding(Kind.OPEN, sent, name(line) + " is still recorded as " + Json.text(stored, "status"));
            // a text, if Dify 1.9 has damaged the JSON that it stores
            var outputs = parsed(stored.path("outputs"));
            // an empty answer may belong to a run that was stopped or lost, see [#status]
            if (outputs.isTextual() || app != AppKind.WORKFLOW && Json.text(outputs, "answer").isEmpty())
                return finding(Kind.NOT_VERIFIABLE, sent, "no readable outputs of " + name(line));
            var differences = differences(sent, line.json(), stored);
            return differences.isEmpty() ? finding(Kind.MATCHES, sent, name(line))
                    : finding(Kind.DIFFERS, sent, String.join(", ", differences) + ", " + name(line));
        }

        /// Lists what differs: `status`, `outputs /answer`, `inputs /text` or
        /// `inputs /query`. Ignores the sources of an answer, which Dify does not
        /// record with the run, and inputs that it did not record.
        private List<String> differences(Sent sent, JsonNode line, JsonNode stored) {
            var found = new ArrayList<String>();
            var choices = sent.session().csv().choices();
            var question = choices.queryColumn().isEmpty() ? "query" : choices.queryColumn();
            var inputs = parsed(stored.path("inputs"));
            var status = Json.text(stored, "status");
            // the result of a blocking chatflow has no status, but is a success
            if (!status.isEmpty() && !status.equals(line.path("workflow_status").asText("succeeded")))
                found.add("status");
            // false, because a difference in whitespace counts, too
            new JsonDiff(false).of("", comparable(line.path("outputs")), comparable(stored.path("outputs"))).stream()
                    .map(JsonDiff.Difference::pointer)
                    .filter(place -> !place.matches("/(retriever_resources|thoughts|from_thoughts).*")
                            && !(place.equals("/answer") && isSameAnswer(line.at("/outputs/answer").asText(),
                                    stored.at("/outputs/answer").asText())))
                    .limit(3).forEach(place -> found.add("outputs " + place));
            line.path("inputs").forEachEntry((column, cell) -> {
                var taken = stored.has("query") && column.equals(question) ? stored.path("query")
                        : inputs.path(choices.names().map().getOrDefault(column, column));
                if (!taken.isMissingNode() && !isSame(cell.asText(), taken)) found.add("inputs /" + column);
            });
            return found;
        }

        /// Returns whether both are the answer of a row without a run. Dify stores it trimmed, with
        /// `{name}` instead of `{{name}}`, and of an old agent with line breaks between the rounds,
        /// or without its first thoughts.
        private boolean isSameAnswer(String live, String stored) {
            UnaryOperator<String> plain = text -> text.replaceAll("\\s+", "").replace("{{", "{").replace("}}", "}");
            String sent = plain.apply(live), kept = plain.apply(stored);
            return app == AppKind.AGENT_CHAT && sent.endsWith(kept) || !app.hasRuns() && sent.equals(kept);
        }

        /// Returns whether the server's value can come from this cell. A cell is text, but the
        /// value that was sent has a type that depends on the workflow's form, which may have
        /// changed since. So each type that the value can have is tried. An empty cell may become
        /// anything, such as a default. Dify drops NUL characters, and stores an uploaded file as
        /// an object.
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

        /// Parses text that contains JSON, as Dify 1.9 stores outputs and every
        /// version stores inputs.
        private static JsonNode parsed(JsonNode value) {
            var parsed = Json.parseLenient(value.asText());
            return value.isTextual() && !parsed.isMissingNode() ? parsed : value;
        }

        /// Reduces each file to its name and size, because its link changes from response to
        /// response. The marker by which Dify distinguishes files from other objects stays.
        /// Unpaired surrogates are replaced, as in the results.
        private static JsonNode comparable(JsonNode outputs) {
            var copy = parsed(TextNode.valueOf(Json.wellFormed(parsed(outputs).toString())));
            copy.findParents("dify_model_identity").forEach(file ->
                    ((ObjectNode) file).retain("filename", "size", "dify_model_identity"));
            return copy;
        }
    }

    // ── Options ──────────────────────────────────────────────────────────────

    /// Contains the common parts of the tool's and the shell's command lines.
    static final class CommandLines {
        /// Applies the settings that all commands share. picocli passes each on when
        /// it is set, so subcommands come first.
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

        /// Gives a command its version, `--help`, and the layout of its help. The shell's commands
        /// have no Console of their own, and picocli's `help` has its own `--help`.
        private static void layOut(CommandSpec command, Env env) {
            command.version(NAME_AND_VERSION);
            if (command.findOption("--help") == null)
                command.addMixin("console", CommandSpec.forAnnotatedObject(new Console(env, List.of())));
            // in the order of the fields
            var help = command.usageMessage().abbreviateSynopsis(true).sortOptions(false);
            if (String.join("", help.footer()).startsWith("  difyexec")) help.footerHeading("%nExamples:%n");
            help.commandListHeading("%nCommands:%n");
            // one blank line separates the first list, which lists the parameters if there are any
            if (command.positionalParameters().isEmpty()) help.optionListHeading("%n");
            else help.parameterListHeading("%n");
        }

        /// Adds the required options: `difyexec run [OPTIONS] -i <CSV> -o <JSONL>`. picocli leaves
        /// them out when it abbreviates all options. In the shell, the open batch provides them.
        private static String synopsis(CommandLine.Help help) {
            var synopsis = help.synopsis(help.synopsisHeadingLength());
            if (isInShell(help.commandSpec().commandLine())) return synopsis;
            return synopsis.replace("[OPTIONS]", "[OPTIONS]" + help.commandSpec().options().stream()
                    .filter(OptionSpec::required)
                    .map(option -> " " + option.shortestName() + " <" + option.paramLabel() + ">").collect(joining()));
        }

        /// Returns the examples with the command that starts the tool here. In the
        /// shell, they have no `-i` and `-o`.
        private static String footer(CommandLine.Help help, Env env) {
            var command = help.commandSpec();
            if (isInShell(command.commandLine()))
                return help.footer().replaceAll(" -[io] \\S+", "").replace("  difyexec ", "  ");
            var examples = help.footer().replace("difyexec ", env.invocation() + " ");
            if (command != command.root()) return examples;
            return examples + env.readme().map(file -> "\nDocumentation: " + file + "\n").orElse("");
        }

        private static String options(CommandLine.Help help) {
            var parsed = help.commandSpec().commandLine().getParseResult();
            if (parsed == null || !parsed.originalArgs().contains("--help-all"))
                return help.optionList() + Stream.of("--decimal", "--header-row", "--sheet", "--allow-empty",
                        "--delimiter", "--var").filter(help.commandSpec().optionsMap()::containsKey)
                        .reduce((all, next) -> all + " " + next).map("%nSee --help-all: %s%n"::formatted).orElse("");
            var options = help.commandSpec().options().stream().filter(option -> option.hidden() && !option.usageHelp())
                    .map(option -> OptionSpec.builder(option).hidden(false).build()).toList();
            if (options.isEmpty()) return help.optionList();
            var layout = help.createDefaultLayout(options, List.of(), help.colorScheme());
            layout.addAllOptions(options, help.parameterLabelRenderer());
            return help.optionList() + help.createHeading("%nRarely used:%n") + layout;
        }

        /// Runs a command and returns its exit code. A PrintWriter hides that output could not be
        /// written, so this is checked at the end, and the command has then failed. picocli passes
        /// the cause of an ExecutionException to [#onException].
        private static int execute(CommandLine.ParseResult parsed, Secret secret) {
            var line = parsed.commandSpec().commandLine();
            requireNoKey(parsed.asCommandLineList().getLast(), secret);
            checkTyped(parsed.asCommandLineList().getLast());
            try {
                int code = ScopedValue.where(Secret.CURRENT, secret)
                        .call(() -> new CommandLine.RunLast().execute(parsed));
                // `export -` writes to System.out directly
                boolean isLost = line.getOut().checkError() || System.out.checkError();
                if (!isLost || isPipe()) return code;
                throw new CommandLine.ExecutionException(line, "", new Unusable(Exit.STOPPED,
                        "standard output: cannot be written (disk full, or its reader has ended)", ""));
            } catch (OutOfMemoryError _) {
                long megabytes = Runtime.getRuntime().maxMemory() >> 20;
                throw new CommandLine.ExecutionException(line, "", new Unusable(Exit.STOPPED, "out of memory ("
                        + megabytes + " MB)", "set JDK_JAVA_OPTIONS=-Xmx4g to use up to 4 GB"));
            }
        }

        /// Rejects the API key in options and arguments, from which it could get
        /// into files and requests.
        static void requireNoKey(CommandLine line, Secret secret) {
            for (var arg : line.getCommandSpec().args()) if (secret.occursIn(String.valueOf(arg.<Object>getValue())))
                throw new ParameterException(line, (arg instanceof OptionSpec option ? option.longestName()
                        : arg.paramLabel()) + " contains the API key, which only DIFY_API_KEY may have");
        }

        /// Rejects two things that picocli accepts: an option that is given twice, and a blank
        /// value, which usually comes from an unset variable of the caller's shell. `--map` may be
        /// repeated, but not for the same column. A delimiter may be a space, an empty `--require`
        /// drops earlier ones, and an empty value that equals the default changes nothing.
        private static void checkTyped(CommandLine line) {
            for (var option : line.getParseResult().matchedOptions()) {
                var typed = option.originalStringValues();
                boolean isRepeated = option.getValue() instanceof Map<?, ?> pairs ? pairs.size() < typed.size()
                        : typed.size() > 1 && !option.isMultiValue();
                boolean isBlank = typed.getLast().isBlank() && option.type() != Character.class
                        && !option.longestName().equals("--require")
                        && !typed.getLast().equals(option.defaultValue());
                if (isRepeated || isBlank) throw new ParameterException(line, option.longestName() + " "
                        + typed.getLast() + (isRepeated ? ": given more than once" : ": must not be blank"));
            }
        }

        /// Returns whether standard output is a pipe. If it cannot be written to, its
        /// reader, such as `head`, has closed it, which is no error. Only a file has a position.
        private static boolean isPipe() {
            try {
                new FileOutputStream(FileDescriptor.out).getChannel().position();
                return false;
            } catch (IOException _) {
                return true;
            }
        }

        /// Returns a message such as `--timeout abc: not a duration`, or picocli's own, always with
        /// a hint.
        static Unusable unusable(ParameterException problem, Env env) {
            var unusable = unmatched(problem).map(CommandLines::unknown)
                    .orElseGet(() -> new Unusable(message(problem, env)));
            var hint = unusable.hint.isEmpty() ? hint(problem, env) : unusable.hint;
            return new Unusable(env.secret().mask(unusable.what()), hint); // `--json` reports it, too
        }

        static int print(Unusable problem, CommandLine line) {
            line.getErr().println("difyexec: " + problem.text());
            return problem.exit.code;
        }

        /// Returns the words that picocli could not assign. If it reports a missing option, a
        /// mistyped word is the likelier reason, in this command line or in one above it.
        private static Optional<CommandLine.UnmatchedArgumentException> unmatched(ParameterException problem) {
            if (problem instanceof CommandLine.UnmatchedArgumentException known) return Optional.of(known);
            if (problem.getArgSpec() == null && problem.getValue() instanceof String word) // of `help`
                return Optional.of(new CommandLine.UnmatchedArgumentException(problem.getCommandLine(), List.of(word)));
            if (!(problem instanceof CommandLine.MissingParameterException)) return Optional.empty();
            return Stream.iterate(problem.getCommandLine(), Objects::nonNull, CommandLine::getParent)
                    .filter(line -> !line.getUnmatchedArguments().isEmpty()).findFirst()
                    .map(line -> new CommandLine.UnmatchedArgumentException(line, line.getUnmatchedArguments()));
        }

        /// Returns the message with the option or setting in front, because a converter cannot know
        /// whose value it reads. A rejected value may be a whole file that was pasted, so the
        /// message is cut.
        private static String message(ParameterException problem, Env env) {
            var arg = problem.getArgSpec();
            var reason = problem.getCause() instanceof TypeConversionException known ? known.getMessage() : "";
            // picocli splits COLUMN=VARIABLE itself, so no converter of this tool provides a reason
            if (arg != null && arg.type() == Map.class) reason = "must be " + arg.paramLabel();
            // picocli's own reason names the type
            if (arg != null && arg.type() == boolean.class) reason = "takes no value";
            if (arg != null && arg.completionCandidates() != null)
                reason = "must be one of " + String.join(", ", arg.completionCandidates()).toLowerCase(Locale.ROOT);
            if (arg == null || problem.getValue() == null || reason.isEmpty())
                return Text.printable(problem.getMessage(), 1000);
            // the rejected value came from the setting if that has this value, otherwise from the
            // option
            var variable = new EnvDefaults(env).setting(arg)
                    .filter(setting -> setting.text().equals(problem.getValue())).map(Env.Setting::place);
            var name = arg instanceof OptionSpec option ? option.longestName() + " " : "";
            return Text.printable(variable.orElse(name + problem.getValue()) + ": " + reason, 1000);
        }

        /// Returns where to read more. In the shell, a missing option means that no batch is open,
        /// because an open batch provides -i and -o.
        private static String hint(ParameterException problem, Env env) {
            var line = problem.getCommandLine();
            var name = line.getParent() == null ? "" : " " + line.getCommandName();
            var help = "see " + env.invocation() + name + " --help";
            if (!isInShell(line)) return problem instanceof CommandLine.MissingParameterException missing
                    ? adviceToAdd(missing.getMissing()) + help : help;
            if (problem instanceof CommandLine.MissingParameterException
                    && problem.getArgSpec() instanceof OptionSpec) return "'open CSV JSONL' opens a batch";
            return "see 'help" + name + "'";
        }

        private static String adviceToAdd(List<ArgSpec> missing) {
            return missing.stream().map(arg -> arg instanceof OptionSpec option ? option.shortestName() + " "
                    + arg.paramLabel() : arg.paramLabel()).collect(joining(" ", "add ", "; "));
        }

        /// Returns whether a command belongs to the shell, whose tree has the prompt as its name.
        static boolean isInShell(CommandLine line) {
            return !line.getCommandSpec().root().name().equals("difyexec");
        }

        /// Reports an unknown word, with a near one as a hint. Up to two letters may differ.
        /// picocli compares pairs of letters, so it would not suggest `run` for `rnu`. For a word
        /// of two letters, nothing is suggested, because every word would be near.
        private static Unusable unknown(CommandLine.UnmatchedArgumentException problem) {
            var spec = problem.getCommandLine().getCommandSpec();
            var word = problem.getUnmatched().getFirst();
            boolean isOption = word.startsWith("-"), isBeforeCommand = !spec.subcommands().isEmpty();
            var known = isOption ? spec.optionsMap().keySet() : spec.subcommands().keySet();
            var hint = Nearest.of(word, known.stream(), word.length() < 3 ? 0 : 2, 1).stream()
                    .map("did you mean %s?"::formatted).collect(joining());
            if (word.equals("--api-key")) hint = "put DIFY_API_KEY=KEY into .env or the environment";
            if (isOption && isBeforeCommand && hint.isEmpty()) hint = "put options after the command";
            if (isOption) return new Unusable("unknown option " + Text.printable(word, 60), hint);
            if (isBeforeCommand) return new Unusable("unknown command " + Text.quoted(word), hint);
            // `run data.csv` probably means `-i data.csv`, and `status results.jsonl` means
            // `-o results.jsonl`
            var parsed = problem.getCommandLine().getParseResult();
            var missing = Stream.of("-i", "-o").map(spec::findOption).filter(option -> option != null
                    && option.required() && !parsed.hasMatchedOption(option)).toList();
            if (!missing.isEmpty()) {
                hint = "did you mean " + missing.getFirst().shortestName() + " "
                        + Text.shell(Text.printable(word, 60));
                if (missing.size() > 1) hint += " -o JSONL";
                hint += "?";
            }
            return new Unusable("unexpected argument " + Text.quoted(word), hint);
        }

        /// Prints the message of an expected exception. For any other, a bug, picocli prints the
        /// stack trace and returns 1.
        private static int onException(Exception problem, CommandLine line, CommandLine.ParseResult parsed)
                throws Exception {
            if (problem instanceof InterruptedException) {
                line.getErr().println("Interrupted.");
                return Exit.INTERRUPTED.code;
            }
            if (problem instanceof IOException || problem instanceof UncheckedIOException)
                return print(Unusable.of(problem), line);
            if (problem instanceof ExecutionException && problem.getCause() instanceof Exception cause)
                return onException(cause, line, parsed); // of a worker thread
            if (problem instanceof Invariant broken) return print(broken.report(), line);
            if (!(problem instanceof Unusable unusable)) throw problem;
            return print(unusable, line);
        }

        /// Creates the objects that picocli needs, with what their constructors need.
        ///
        /// @param inherited the options with which the shell was started, whose
        ///                  commands have them, too
        record Factory(Env env, UnaryOperator<Row> edits, List<Typed> inherited) implements CommandLine.IFactory {
            @Override
            public <K> K create(Class<K> type) throws Exception {
                if (type == Setup.class) return type.cast(new Setup(env, edits, inherited));
                if (type == Console.class) return type.cast(new Console(env, inherited));
                return CommandLine.defaultFactory().create(type);
            }
        }

        /// Converts option values. The message of an error follows the option and its value:
        /// `--timeout abc: …`.
        static final class Converters {
            /// Registers converters by the type of an option. An option whose smallest value is 1
            /// is therefore declared as a `Long`, and one whose smallest value is 0 as an `int`. A
            /// number too large for an `int` means the same as the largest `int`, because no batch
            /// has that many rows.
            static CommandLine register(CommandLine line) {
                return line.registerConverter(Duration.class, Converters::duration)
                        .registerConverter(URI.class, Converters::parseUrl)
                        .registerConverter(Charset.class, Converters::charset)
                        .registerConverter(Path.class, Converters::path)
                        .registerConverter(Character.class, Converters::delimiter)
                        .registerConverter(Long.class, text -> number(text, 1))
                        .registerConverter(int.class, text -> (int) Math.min(Integer.MAX_VALUE, number(text, 0)))
                        .registerConverter(Pace.Rate.class, Converters::rate)
                        .registerConverter(Limits.Ceiling.class, Converters::ceiling)
                        .registerConverter(BigDecimal.class, Converters::amount);
            }

            /// Reads `90`, `1.5`, `90s`, `2m`, `1h` or `500ms`. With at most 30
            /// days, no sum of times can overflow.
            static Duration duration(String text) {
                var match = Pattern.compile("(\\d{1,8}(?:\\.\\d+)?)\\s*(ms|s|m|h)?").matcher(text.strip());
                if (!match.matches())
                    throw new TypeConversionException(
                            "must be a duration of at most 30 days, such as 90, 1.5, 90s, 2m or 500ms");
                var unit = Map.of("ms", ChronoUnit.MILLIS, "s", ChronoUnit.SECONDS, "m", ChronoUnit.MINUTES,
                        "h", ChronoUnit.HOURS).get(Objects.requireNonNullElse(match.group(2), "s"));
                long millis = new BigDecimal(match.group(1))
                        .multiply(BigDecimal.valueOf(unit.getDuration().toMillis())).longValue();
                if (millis > Duration.ofDays(30).toMillis())
                    throw new TypeConversionException("must be at most 30 days (720h)");
                return Duration.ofMillis(millis);
            }

            /// Reads an http or https URL and removes slashes at its end. A path will be appended,
            /// so a query or fragment is rejected. A password is rejected too, because the log
            /// records the URL.
            static URI parseUrl(String text) {
                var address = text.strip().replaceAll("/+$", "");
                try {
                    var uri = new URI(address);
                    boolean isHttp = uri.getHost() != null && String.valueOf(uri.getScheme()).matches("https?");
                    boolean isPlain = uri.getFragment() == null && uri.getQuery() == null && uri.getUserInfo() == null;
                    if (isHttp && isPlain && uri.getPort() <= 65_535) return uri;
                } catch (URISyntaxException _) {
                    // rejected below, with a message of this tool
                }
                throw new TypeConversionException("must be http:// or https://, a host and a path, and no more, "
                        + "such as https://api.dify.ai/v1");
            }

            private static Path path(String text) {
                if (text.chars().anyMatch(Character::isISOControl))
                    throw new TypeConversionException("must not contain control characters");
                return Storage.path(text).orElseThrow(() -> new TypeConversionException(
                        "not a possible file name; Windows allows none with one of <>:\"|?*"));
            }

            private static Charset charset(String text) {
                try {
                    return Charset.forName(text.strip());
                } catch (IllegalArgumentException _) {
                    throw new TypeConversionException(
                            "unknown encoding; try UTF-8, windows-31j, GB18030 or windows-1252");
                }
            }

            /// Rejects quotes and line breaks, because they have a meaning in every CSV.
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

            static Pace.Rate rate(String text) {
                var match = Pattern.compile("(\\d{1,6}(?:\\.\\d{1,3})?)/([smh])").matcher(text.strip());
                if (!match.matches() || new BigDecimal(match.group(1)).signum() == 0)
                    throw new TypeConversionException("must be a rate such as 10/s, 90/m or 500/h");
                var unit = Duration.parse("PT1" + match.group(2));
                return new Pace.Rate(Duration.ofNanos(BigDecimal.valueOf(unit.toNanos())
                        .divide(new BigDecimal(match.group(1)), RoundingMode.HALF_UP).longValue()));
            }

            /// Reads a number of rows or a percentage. `off` is a number that no batch reaches. A
            /// ceiling with a count ignores its share, and a percentage has no count.
            static Limits.Ceiling ceiling(String text) {
                if (text.strip().equals("off")) return new Limits.Ceiling(Long.MAX_VALUE, 1);
                var match = Pattern.compile("(\\d{1,9})(%?)").matcher(text.strip());
                long number = match.matches() ? Long.parseLong(match.group(1)) : 0;
                if (number < 1 || !match.group(2).isEmpty() && number > 100)
                    throw new TypeConversionException("must be a number of rows (20), a percentage (5%) or off");
                return match.group(2).isEmpty() ? new Limits.Ceiling(number, 1) : new Limits.Ceiling(0, number / 100.0);
            }

            private static BigDecimal amount(String text) {
                if (!text.strip().matches("\\d{1,12}(\\.\\d{1,12})?") || new BigDecimal(text.strip()).signum() == 0)
                    throw new TypeConversionException("must be an amount above zero, such as 5 or 0.5");
                return new BigDecimal(text.strip());
            }
        }
    }

    static class Console {
        @Spec(Spec.Target.MIXEE) CommandSpec spec;

        @Option(names = {"-h", "--help", "--help-all"}, usageHelp = true,
                description = "Show this help; --help-all shows every option.")
        boolean help;

        @Option(names = {"-V", "--version"}, versionHelp = true, description = "Show the version.")
        boolean version;

        final Env env;
        private final List<Typed> inherited; // the options with which the shell was started

        Console(Env env, List<Typed> inherited) {
            this.env = env;
            this.inherited = inherited;
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

        void write(Path file, String what, IOConsumer<OutputStream> writing) throws IOException {
            if (file == null) return;
            AtomicFile.write(file, writing);
            err().println(what + " → " + file);
        }

        boolean isInShell() {
            return CommandLines.isInShell(spec.commandLine());
        }

        String again(List<String> options) {
            return NextCall.again(spec.commandLine().getParseResult(), isInShell() ? "" : env.invocation(), options);
        }

        NextCall next() {
            return NextCall.of(spec.commandLine().getParseResult(), isInShell() ? "" : env.invocation());
        }

        /// Returns the options of this session for its log. In the shell, those that
        /// were typed here come first.
        List<String> typed() {
            var own = Typed.of(spec.commandLine().getParseResult()).toList();
            var names = own.stream().map(Typed::name).collect(Collectors.toSet());
            return Stream.concat(own.stream(), inherited.stream().filter(option -> !names.contains(option.name())))
                    .filter(option -> option.scope() != Scope.CALL).map(Typed::text).toList();
        }
    }

    /// Says for how long a typed option applies, and so which suggested commands repeat it. Without
    /// this annotation, those repeat it that continue a `run` or `retry`.
    @Retention(RetentionPolicy.RUNTIME)
    @interface Lasts {
        Scope value();
    }

    enum Scope {
        /// Applies to one command. Repeating it would start over, leave rows out, or
        /// write files again.
        CALL,
        /// Need not be repeated to continue a batch, because the log records how its input is read.
        INPUT,
        /// Determines how a batch runs, or on which server, so each suggested command repeats it.
        BATCH,
        /// Applies to the commands that continue the present one.
        SESSION
    }

    /// Holds an option as it was typed and as a session logs it: `--user=me`.
    record Typed(String name, String text, Scope scope) {
        /// Lists the options that are taken from a log. A log may come from somebody else, so it
        /// must not choose a URL or a command.
        private static final Set<String> OF_BATCH = Set.of("--demo", "--workflow-id", "--mode", "--allow-empty",
                "--allow-unmapped", "--no-check", "--user", "--files", "--save-files", "--env-file");
        private static final Set<String> NOT_IN_SHELL = Set.of("-c", "--rate", "--timeout", "--max-retries",
                "--max-failures", "--max-tokens", "--max-cost");

        static Stream<Typed> of(CommandLine.ParseResult parsed) {
            return parsed.matchedOptions().stream().distinct().flatMap(option -> option.originalStringValues().stream()
                    .map(value -> new Typed(option.shortestName(), option.shortestName() + (option.arity().max() == 0
                            || value.equals(option.fallbackValue()) ? "" : "=" + value),
                            scope(option))));
        }

        private static Scope scope(OptionSpec option) {
            var lasts = ((AnnotatedElement) option.userObject()).getAnnotation(Lasts.class);
            if (lasts != null) return lasts.value();
            return OF_BATCH.contains(option.longestName()) ? Scope.BATCH : Scope.SESSION;
        }

        static Stream<Typed> of(SessionEvent session) {
            return session.call().typed().stream().filter(Objects::nonNull)
                    .map(text -> new Typed(text.split("=", 2)[0], text, OF_BATCH.contains(text.split("=", 2)[0])
                            ? Scope.BATCH : Scope.SESSION))
                    .filter(option -> option.scope == Scope.BATCH || NOT_IN_SHELL.contains(option.name));
        }

        /// Formats the option for a shell: `--user 'my name'`, but `--demo=chatflow`, whose value
        /// is optional, and `--user=-me`, which would be taken for an option.
        String words() {
            boolean isWhole = text.equals(name) || name.equals("--demo") || text.startsWith(name + "=-");
            return isWhole ? Text.shell(text) : name + " " + Text.shell(text.substring(name.length() + 1));
        }
    }

    /// Suggests the next command, as text that can be pasted into a shell.
    ///
    /// @param prefix  words before the command, such as `./jbang DifyExec.java`; empty in the
    ///                shell, where the batch is already open
    /// @param command present command, such as `run`
    /// @param options all but `-i` and `-o`
    record NextCall(String prefix, String command, Optional<Path> input, Path output, List<Typed> options) {
        static NextCall of(CommandLine.ParseResult parsed, String prefix) {
            var spec = parsed.commandSpec();
            Function<String, Optional<Path>> file = name -> Optional.ofNullable(spec.findOption(name))
                    .map(option -> option.<Path>getValue());
            return new NextCall(prefix, spec.name(), file.apply("-i"),
                    file.apply("-o").orElse(Path.of("results.jsonl")),
                    Typed.of(parsed).filter(option -> option.scope() != Scope.CALL).toList());
        }

        /// Returns the text of this command line with further options, which replace those with the
        /// same name, except `--map`.
        static String again(CommandLine.ParseResult parsed, String prefix, List<String> options) {
            var replaced = options.stream().map(option -> option.split(" ")[0]).filter(name -> !name.equals("--map"))
                    .collect(Collectors.toSet());
            var kept = Typed.of(parsed).filter(option -> !replaced.contains(option.name())).map(Typed::words);
            var ids = parsed.matchedPositionals().stream().flatMap(one -> one.stringValues().stream()).map(Text::shell);
            return Stream.of(Stream.of(prefix, parsed.commandSpec().name()), kept, ids, options.stream())
                    .flatMap(words -> words).collect(joining(" ")).strip();
        }

        /// Suggests how to continue a batch. Pending rows run first, then failed ones are retried.
        /// If every failed row would fail again in the same way, suggests looking at them in the
        /// shell.
        String suggestNext(Batch batch) {
            var index = batch.index();
            var history = batch.history();
            // the -o of `run --shard` is not the name of the shard's own results
            var next = new NextCall(prefix, command, input, batch.files().results(), options)
                    .continuing(history).beyondLimits(batch);
            var running = history.liveSession().map(session -> session.program().process().id());
            if (running.isPresent()) return "Process " + running.get() + " is working on this batch.";
            if (index.isComplete()) return next.suggestAfterSuccess(batch);
            if (batch.files().isCopy()) return "Results without a log cannot be continued. Continue the batch that "
                    + "they come from.";
            boolean isPending = index.count(RowStatus.PENDING) > 0, hasFailed = index.count(RowStatus.FAILED) > 0;
            var note = isPending || hasFailed ? ""
                    : "Both run and retry look up unresolved rows; --resend-unknown sends them again.\n";
            boolean isPermanent = !isPending && hasFailed && index.onRetryList().allMatch(entry ->
                    index.status(entry) == RowStatus.FAILED && history.isPermanent(entry));
            if (!isPermanent) return note + next.line(isPending ? "run" : "retry");
            if (prefix.isEmpty()) return "Next: failures" + next.report(); // the shell is open already
            return next.only(option -> option.scope() == Scope.BATCH && !option.name().equals("--save-files"))
                    .line("shell") + next.report(); // `shell` lacks that option
        }

        /// Suggests the export of the results, which needs none of the options. The text is "All
        /// rows succeeded" only if the CSV shows that no row is missing, and no row was sent twice
        /// because its run appeared late.
        private String suggestAfterSuccess(Batch batch) {
            if (batch.csv().isEmpty()) return "All recorded rows succeeded. Pass -i "
                    + input.map(Path::toString).map(Text::shell).orElse("CSV") + " to include rows not yet run.";
            boolean hasOthers = batch.index().size() > batch.index().rows(); // rows that are not in this CSV
            var partial = Text.around(", ", Progress.some(batch.index().count(RowStatus.PARTIAL), "partially"), "");
            var part = Text.around(" (shard ", batch.files().shard().map(Shard::toString).orElse(""), ")");
            var done = "All rows succeeded" + partial + part + ".";
            if (batch.figures().count(LateEvent.class) > 0) done = "Every row has a result.";
            else if (hasOthers) done = "All rows of "
                    + Text.printable(batch.csv().get().file().input().toString(), 200) + " succeeded.";
            if (command.equals("export")) return done;
            return done + "\n" + only(_ -> false).line("export") + " out.csv" + report();
        }

        private String report() {
            var status = prefix.isEmpty() ? "status" : prefix + " status -o " + Text.shell(output.toString());
            return "\n  or: " + status + " --html report.html";
        }

        /// Returns a call that continues the batch: with the input and the options
        /// of its last session, except in the shell, which has them, and after `run`
        /// or `retry`, where they were typed.
        private NextCall continuing(History history) {
            var next = only(option -> option.scope() != Scope.INPUT);
            if (prefix.isEmpty() || Set.of("run", "retry").contains(command)) return next;
            return new NextCall(prefix, command, input.or(() -> history.input(output)), output,
                    Stream.concat(next.options.stream(), history.last(SessionEvent.class).stream().flatMap(Typed::of))
                            .toList());
        }

        NextCall only(Predicate<Typed> wanted) {
            return new NextCall(prefix, command, input, output, options.stream().filter(wanted).toList());
        }

        /// Replaces a limit that the batch has reached, which would stop the next command at once.
        private NextCall beyondLimits(Batch batch) {
            var spent = batch.figures().spending;
            var next = this;
            if (hasReached("--max-tokens", BigDecimal.valueOf(spent.tokens()))) next = next.with("--max-tokens", "N");
            if (spent.estimated().values().stream().anyMatch(cost -> hasReached("--max-cost", cost)))
                next = next.with("--max-cost", Forecast.of(batch).flatMap(Forecast::maxCost).orElse("AMOUNT"));
            return next;
        }

        private boolean hasReached(String limit, BigDecimal spent) {
            return options.stream().map(Typed::text).filter(text -> text.matches(limit + "=[0-9]{0,18}\\.?[0-9]+"))
                    .anyMatch(text -> new BigDecimal(text.substring(limit.length() + 1)).compareTo(spent) <= 0);
        }

        NextCall with(String option, String value) {
            var others = options.stream().filter(other -> !other.name().equals(option));
            return new NextCall(prefix, command, input, output, Stream.concat(others,
                    Stream.of(new Typed(option, option + "=" + value, Scope.SESSION))).toList());
        }

        /// Suggests the run of a CSV that was checked. Returns empty in the shell, or if the
        /// results file exists, because the run would then continue the batch in that file.
        Optional<String> suggestRun(Optional<Shard> part) {
            return prefix.isEmpty() || Files.exists(part.map(shard -> shard.of(output)).orElse(output))
                    ? Optional.empty() : Optional.of(line("run"));
        }

        /// Formats the suggestion: `Next: difyexec retry -i data.csv -o results.jsonl`, in the
        /// shell `Next: retry`.
        private String line(String command) {
            var files = "-i " + Text.shell(input.map(Path::toString).orElse("CSV")) + " -o "
                    + Text.shell(output.toString());
            var words = prefix.isEmpty() ? Stream.of("Next:", command) : Stream.of("Next:", prefix, command, files);
            return Stream.concat(words, options.stream().map(Typed::words)).collect(joining(" "));
        }
    }

    /// Holds the options of every command that calls Dify.
    static final class Setup extends Console {
        @ArgGroup(validate = false, order = 4, heading = "%nServer:%n") ServerOptions server = new ServerOptions();

        final UnaryOperator<Row> edits;

        Setup(Env env, UnaryOperator<Row> edits, List<Typed> inherited) {
            super(env, inherited);
            this.edits = edits;
        }

        /// Rejects settings that no converter can reject, before the server is asked. A zero is a
        /// valid delay, but not a valid limit.
        void check(RunOptions retrying) {
            if (retrying.timeout.isZero()) throw new Unusable("--timeout 0 (TIMEOUT): must be greater than zero");
            if (Duration.ZERO.equals(retrying.settle)) throw new Unusable("--settle 0: must be greater than zero");
            if (server.envFile != null && !Files.isRegularFile(server.envFile))
                throw new Unusable("--env-file " + server.envFile + ": not a file", "check the path");
            // Dify allows 255 characters, and each attempt adds its own number to the name
            if (!Attempt.UserNames.isUsable(retrying.user))
                throw new Unusable("--user " + Text.shell(Text.printable(retrying.user, 20))
                        + ": must have at most 200 characters and no control characters");
        }

        /// Returns the settings of `run` for a command that starts no run and has no options for
        /// them. They come from the environment. Such a command rejects what `run` would reject,
        /// and repeats a request as often as `run` would.
        RunOptions retrying() {
            var retrying = new RunOptions();
            CommandLines.Converters.register(new CommandLine(retrying).setErr(err()))
                    .setDefaultValueProvider(new EnvDefaults(env)).parseArgs();
            check(retrying);
            return retrying;
        }

        /// Connects to the demo, or to the configured server. The demo is in this process, so it
        /// needs neither a proxy nor a certificate. If the command has `--demo`, the error for a
        /// missing key suggests it.
        ///
        /// @param version id of the published workflow to run; empty for the newest
        /// @param runs    the largest number of runs at a time, which share the memory for
        ///                responses
        Connection connect(Optional<Demo> demo, String version, RunOptions retrying, int runs) {
            var access = demo.map(own -> new Access(own.baseUrl(), Demo.KEY, "", Demo.knownVersion(version),
                    Optional.empty(), Optional.empty()))
                    .orElseGet(() -> server.access(env, version, spec.findOption("--demo") != null, err()));
            var backoff = new Backoff(delay("INITIAL_RETRY_DELAY", Duration.ofSeconds(1)),
                    delay("MAX_RETRY_DELAY", Duration.ofMinutes(1)), retrying.maxRetries);
            return new Connection(access, DifyClient.of(access, retrying.timeout, runs),
                    new Judge(backoff, retrying.failedRuns, access, List.of()), demo, err());
        }

        /// Reads a delay, which has no option. The demo ignores a `.env` that cannot be read.
        private Duration delay(String variable, Duration otherwise) {
            var setting = env.setting(variable).filter(known -> known.fault().isEmpty());
            try {
                return setting.map(Env.Setting::text).map(CommandLines.Converters::duration).orElse(otherwise);
            } catch (TypeConversionException problem) {
                throw new Unusable(setting.orElseThrow().place() + ": " + problem.getMessage());
            }
        }

        static final class ServerOptions {
            @Option(names = "--base-url", paramLabel = "URL", defaultValue = "https://api.dify.ai/v1",
                    description = "Call the API at this URL (env: DIFY_API_BASE_URL; default: ${DEFAULT-VALUE}).")
            @Lasts(Scope.BATCH) URI baseUrl;

            @Option(names = "--env-file", paramLabel = "FILE", description = "Read settings from this file, not .env.")
            Path envFile;

            /// Reads the access to the server. The key is never an option, because everyone on the
            /// machine can see a command line. An unreadable `.env` line is an error even if it is
            /// not used, because the default in its place could be the wrong server.
            Access access(Env env, String workflowId, boolean hasDemo, PrintWriter err) {
                var variables = Stream.concat(EnvDefaults.VARIABLES.values().stream(),
                        EnvDefaults.WITHOUT_OPTION.stream()).toList();
                // first, because a misspelled key is missing
                env.unknownNames(variables).forEach(err::println);
                var key = key(env, hasDemo);
                variables.forEach(env::needed);
                var appId = env.get("DIFY_APP_ID");
                if (env.secret().occursIn(appId))
                    throw new Unusable("DIFY_APP_ID contains the API key, which only DIFY_API_KEY may have");
                if (!appId.isBlank() && key.startsWith("app-"))
                    err.println("Warning: DIFY_APP_ID has no effect with a key of one app (app-…).");
                if (baseUrl.getScheme().equals("http") && !Env.isLoopback(baseUrl.getHost()))
                    err.println("Warning: " + baseUrl + " is not https; the API key is sent unencrypted.");
                return new Access(baseUrl, key, id("DIFY_APP_ID", appId, "[A-Za-z0-9-]*"),
                        id("--workflow-id (DIFY_WORKFLOW_ID)", workflowId, "([0-9A-Fa-f-]{32,36})?"),
                        env.proxy(baseUrl), env.needed("DIFY_CA_FILE"));
            }

            /// Rejects a key instead of an id, because the log is not secret, and
            /// what cannot be an id.
            private static String id(String option, String text, String form) {
                if (text.strip().matches("(?s)(app-|sk-|dfo[ae]_).*"))
                    throw new Unusable(option + " is an API key, not an id", "put the key into DIFY_API_KEY");
                if (text.strip().matches(form)) return text.strip();
                throw new Unusable(option + " is not an id", "copy an app's id from its URL in Dify, and a "
                        + "version's from Version History");
            }

            private String key(Env env, boolean hasDemo) {
                var setting = env.needed("DIFY_API_KEY");
                if (setting.isEmpty())
                    throw new Unusable(env.missing("DIFY_API_KEY"), (hasDemo ? "try --demo, or " : "")
                            + "put these lines into " + (envFile == null ? ".env" : envFile)
                            + ", with the key from Dify's Access Point (or API Access):"
                            + "\nDIFY_API_BASE_URL=" + baseUrl + "\nDIFY_API_KEY=" + Env.PLACEHOLDER);
                var key = setting.get().text().strip();
                // A header can carry only ASCII. JSON escapes quotes and backslashes, so a key with
                // them would not be masked there.
                if (key.matches("[!-~&&[^\"\\\\]]+")) return key;
                throw new Unusable("DIFY_API_KEY" + setting.get().source() + " contains a character that no key has "
                        + "(such as a space, a quote or a non-ASCII letter)", "copy it again, without 'Bearer '");
            }
        }
    }

    /// Holds the options about the workflow and its inputs. `check` has them too, so that it checks
    /// what `run` sends.
    static final class WorkflowOptions {
        @Option(names = "--workflow-id", paramLabel = "ID", defaultValue = "",
                description = "Pin a published version (env: DIFY_WORKFLOW_ID).")
        String workflowId;

        @Option(names = "--mode", paramLabel = "MODE", defaultValue = "auto",
                description = "Use mode auto (default), blocking or streaming.")
        Mode mode;

        @Option(names = "--query-column", paramLabel = "NAME", defaultValue = "",
                description = "Chat apps: take the question from this column (default: query).")
        @Lasts(Scope.INPUT) String queryColumn;

        @Option(names = "--require", paramLabel = "POINTER", split = "\0", hideParamSyntax = true,
                description = "Fail rows without this output (/answer); repeatable.")
        @Lasts(Scope.INPUT) List<String> require = List.of();

        @Option(names = "--allow-unmapped", hidden = true,
                description = "Continue when columns and variables do not match.")
        boolean allowUnmapped;

        @Option(names = "--allow-empty", hidden = true, description = "Send rows that lack a required text.")
        boolean allowEmpty;

        @Option(names = "--files", paramLabel = "DIR", hidden = true,
                description = "Allow @path cells to name files in this folder, too.")
        Path files;

        @Option(names = "--no-check", hidden = true,
                description = "Send every cell as text, unchecked.")
        boolean noCheck;
    }

    @Command(name = "difyexec") // a hint about an unusable setting contains this name
    static final class RunOptions {
        @Option(names = "--timeout", paramLabel = "SEC", defaultValue = "300",
                description = "Limit each run (env: TIMEOUT; default: ${DEFAULT-VALUE}).")
        Duration timeout;

        @Option(names = "--max-retries", paramLabel = "N", defaultValue = "3",
                description = "Retry a row up to N times (env: MAX_RETRIES; default: ${DEFAULT-VALUE}).")
        int maxRetries;

        @Option(names = "--user", paramLabel = "NAME", defaultValue = "difyexec", hidden = true,
                description = "Begin each attempt's user id in Dify with this name (default: ${DEFAULT-VALUE}).")
        String user;

        @Option(names = "--retry-failed-runs", paramLabel = "WHEN", defaultValue = "transient", hidden = true,
                description = "When to retry a failed run: never, transient (overload, timeouts) or always "
                        + "(default: ${DEFAULT-VALUE}).")
        Judge.RetryRuns failedRuns;

        @Option(names = "--settle", paramLabel = "SEC", hidden = true,
                description = "Look this long for an interrupted run before sending its row again "
                        + "(default: 30 s; streams: 20 min).")
        Duration settle;

        @Option(names = "--grace", paramLabel = "SEC", defaultValue = "20", hidden = true,
                description = "After Ctrl-C, let running rows finish for this long (default: ${DEFAULT-VALUE}).")
        Duration grace;
    }

    /// Connects a command to Dify until the command ends. Before a batch starts, it
    /// asks up to `MAX_RETRIES` times while the server is down or busy, and blocks
    /// meanwhile. A refusal ends the command.
    record Connection(Access access, DifyClient client, Judge judge, Optional<Demo> demo, PrintWriter err)
            implements AutoCloseable {
        /// Limits the characters of a server's text in a message, because the text may be a whole
        /// web page.
        private static final int QUOTED_CHARACTERS = 200;
        /// Takes the place of a row's attempt. The rules use only its tries.
        private static final Attempt NOBODY = Attempt.unsent(new Row(0, 0, "-", Map.of()), "", Mode.BLOCKING);

        /// Asks for version and app.
        ///
        /// @param suffix completes the message of a refusal with what that means for
        ///             the rows, such as `; nothing was sent`
        ServerInfo greet(String suffix) throws InterruptedException {
            var info = ask(client::info, suffix);
            String mode = info.path("mode").asText(""), version = info.path("version").asText();
            Release.note(version).ifPresent(err::println);
            if (mode.isEmpty()) throw unusable(notDify(), suffix); // every version of Dify reports a mode
            var kind = AppKind.of(mode).orElseThrow(() -> unusable(Stop.early("the key belongs to an app of type "
                    + Text.quoted(mode), "use the key of a workflow, chat, agent or completion app"), suffix));
            return new ServerInfo(info.path("name").asText(), kind, version);
        }

        /// Requires the batch's app, if it sent rows: its key has the recorded hash, or the server
        /// has one of the recorded runs under this key, which may be new. Otherwise rows would be
        /// sent and paid for again.
        AppClaim identify(Origin origin, AppKind kind, String suffix) throws InterruptedException, IOException {
            // with a new salt, the hash would look like another app's
            var known = origin.session().map(session -> session.dify().app());
            if (known.filter(app -> access.hasAppHash(app.hash())).isPresent())
                return new AppClaim(known.get().hash(), access.appId(), false, kind.word());
            if (known.isPresent()) {
                var app = known.get();
                var runs = origin.runs();
                boolean isOtherKind = !app.kind().isEmpty() && !app.kind().equals(kind.word());
                if (runs.mayHaveStarted() && isOtherKind)
                    throw new Unusable(origin.files().log() + ": this batch was started with an app of type "
                            + Text.quoted(app.kind()) + ", but the key belongs to one of type "
                            + Text.quoted(kind.word()) + suffix, "use that app's key, or choose another -o");
                if (runs.mayHaveStarted() && !knowsAny(runs.newest(), kind, suffix))
                    throw origin.otherApp(runs, app.id().equals(access.appId()));
            }
            return new AppClaim(access.appHash(HexFormat.of().toHexDigits(new SecureRandom().nextLong())),
                    access.appId(), false, kind.word());
        }

        private boolean knowsAny(Collection<Origin.Recorded> runs, AppKind kind, String suffix)
                throws InterruptedException {
            var app = client.forApp(kind);
            for (var run : runs)
                if (ask(() -> app.knows(run), suffix)) return true;
            return false;
        }

        Inspection inspect(WorkflowOptions options, ServerInfo server, Csv csv) throws InterruptedException {
            var inspector = new Inspection.Inspector(csv, form(options, server, csv));
            var index = new Index();
            csv.survey(inspector, row -> index.addRow(row, csv.file()), inspector::add);
            return inspector.inspection(options.allowUnmapped);
        }

        /// Returns the workflow's form. With `--no-check`, or if the form is unknown, every cell is
        /// text.
        Form form(WorkflowOptions options, ServerInfo server, Csv csv) throws InterruptedException {
            var kind = server.kind();
            String question = csv.shape().queryColumn(), files = csv.shape().names().filesColumn();
            if (kind == AppKind.WORKFLOW && !question.equals(Variable.QUESTION))
                err.println("Warning: --query-column has no effect, because a workflow has no question.");
            if (!files.isEmpty() && kind.hasRuns()) throw new Unusable("--files-column: a " + kind.word()
                    + " takes files only in its variables", "leave it out");
            if (!files.isEmpty() && !csv.columns().contains(files))
                throw new Unusable("--files-column: no column " + Text.quoted(files), "name another one");
            var reading = new Variable.Reading(Variable.Folders.of(csv.file().input(), options.files),
                    csv.shape().decimal(), csv.header().delimiter() == ';', options.allowEmpty);
            var known = options.noCheck ? Optional.<JsonNode>empty()
                    : ask(() -> orUnchecked(client.fetch("/parameters")), "");
            var form = known.map(read -> Form.of(read, csv.columns(), reading)).orElse(Form.ofText());
            if (!files.isEmpty()) form = form.with(List.of(Variable.ofFiles(files,
                    known.orElse(Json.MAPPER.missingNode()), reading)), csv.columns());
            // most completions have no question, so the default column is not one
            boolean isAsked = kind.hasConversations()
                    || kind == AppKind.COMPLETION && !question.equals(Variable.QUESTION);
            return isAsked ? form.withQuestion(question, csv.columns()) : form;
        }

        /// Returns an empty form if the failure may concern this path alone. A busy server is asked
        /// again. A refusal with a code comes from Dify itself, and counts if it would also stop a
        /// batch. Any other failure, even a broken connection, may come from a proxy that blocks
        /// the path, because the server has just responded on another one.
        private DifyClient.Reply<Optional<JsonNode>> orUnchecked(DifyClient.Reply<JsonNode> form) {
            if (!(form instanceof DifyClient.Reply.NotGot(var response)))
                return form.then(read -> new DifyClient.Reply.Got<>(Optional.of(read)));
            boolean isForAll = response instanceof Response.Refused refused
                    && (refused.isBusy() || !refused.code().isEmpty() && refusal(refused).isPresent());
            if (isForAll || Thread.currentThread().isInterrupted()) return new DifyClient.Reply.NotGot<>(response);
            err.println("Warning: cannot read the workflow's form (" + Text.printable(response.why(), QUOTED_CHARACTERS)
                    + "): every cell is sent as text, unchecked; try again later.");
            return new DifyClient.Reply.Got<>(Optional.empty());
        }

        private <T> T ask(Supplier<DifyClient.Reply<T>> question, String suffix) throws InterruptedException {
            try (var clock = Executors.newSingleThreadScheduledExecutor()) { // for a server that stays silent
                clock.scheduleAtFixedRate(() -> err.println("Waiting for a response from " + judge.access() + " …"),
                        10, 10, TimeUnit.SECONDS);
                for (int tries = 0; ; tries++) {
                    var reply = question.get();
                    if (reply instanceof DifyClient.Reply.Got(var answer)) return answer;
                    // it ended the request, not the server
                    if (Thread.interrupted()) throw new InterruptedException();
                    if (reply instanceof DifyClient.Reply.NotGot(var response))
                        waitBeforeRetry(response, tries, suffix);
                }
            }
        }

        private void waitBeforeRetry(Response response, int tries, String suffix) throws InterruptedException {
            var pause = Backoff.Pause.of(response, Instant.now());
            var failed = "the request to " + judge.access() + " failed ("
                    + Text.printable(response.why(), QUOTED_CHARACTERS) + ")";
            var stop = refusal(response).or(() -> pause.flatMap(Backoff.Pause::stop));
            if (stop.isPresent()) throw unusable(stop.get(), suffix);
            if (tries >= judge.backoff().maxRetries())
                throw unusable(Stop.early(failed + " " + Text.count(tries + 1, "time"), "try again later, or check "
                        + "DIFY_API_BASE_URL (http(s)://, port, /v1), the network, a proxy, and Dify's log"), suffix);
            if (pause.isPresent()) err.println(pause.get().text());
            else if (tries == 0) err.println("Note: " + failed + "; trying again …");
            Thread.sleep(judge.backoff().delay(tries, response.pause()));
        }

        private static Unusable unusable(Stop stop, String suffix) {
            return new Unusable(stop.exit(), stop.what() + suffix, stop.hint());
        }

        /// Returns why asking again cannot help, or empty for a response that may pass.
        private Optional<Stop> refusal(Response response) {
            // a success whose content is not Dify's counts as a refusal with its status
            if (response instanceof Response.Refused refused && refused.status() < 300) return Optional.of(notDify());
            var verdict = judge.verdict(NOBODY, response);
            if (verdict instanceof Verdict.StopBatch(var stop, _)) return Optional.of(stop);
            if (!(verdict instanceof Outcome(_, var text))) return Optional.empty();
            return Optional.of(Stop.early(
                    judge.access() + " refuses: " + Text.printable(text, QUOTED_CHARACTERS),
                    "check DIFY_API_BASE_URL and the network"));
        }

        private Stop notDify() {
            return Stop.early(judge.access() + " responds, but is not Dify's API", judge.access().advice());
        }

        @Override
        public void close() {
            client.close();
            demo.ifPresent(Demo::close);
        }
    }

    static final class ForceOption {
        @Option(names = "--force", description = "Overwrite existing files.")
        @Lasts(Scope.CALL) boolean isGiven;

        /// Checks all files that a command is asked to write, before it writes the first.
        ///
        /// @param kept files that are not overwritten, even with `--force`, see [Batch#kept]
        void check(List<Path> kept, BatchFiles.Target... targets) {
            var all = new ArrayList<>(kept);
            for (var target : targets)
                if (target.file() != null) all.add(target.requireWritable(all, isGiven));
        }
    }

    static final class InputOption {
        @Option(names = {"-i", "--input"}, required = true, paramLabel = "CSV",
                description = "Read this CSV, Excel or JSON file; - reads stdin.")
        @Lasts(Scope.CALL) Path csv;
    }

    static final class ResultsOption {
        @Option(names = {"-o", "--output"}, required = true, paramLabel = "JSONL",
                description = "Read the batch of this results file.")
        @Lasts(Scope.CALL) Path file;
    }

    static final class DemoOption {
        @Option(names = "--demo", description = "Use a simulated Dify: no key, no network, no cost.")
        boolean isOn;

        /// Starts the simulated Dify for `--demo`. Its form has each column, so that every CSV
        /// fits.
        Optional<Demo> start(Csv csv) throws IOException {
            return isOn ? Optional.of(new Demo(csv.columns())) : Optional.empty();
        }
    }

    /// Holds the options about the input. Help shows the hidden ones only with `--help-all`,
    /// because few users need them.
    static final class CsvOptions {
        @Option(names = "--id-column", paramLabel = "NAME", defaultValue = "",
                description = "Take ids from this column; # numbers the rows.")
        @Lasts(Scope.INPUT) String idColumn;

        /// The shell joins several values with NUL, which no value contains.
        /// `--map COLUMN=` drops an earlier mapping.
        @Option(names = "--map", paramLabel = "COLUMN=VARIABLE", split = "\0", hideParamSyntax = true,
                description = "Map a column to a variable; repeatable.")
        @Lasts(Scope.INPUT) Map<String, String> map = Map.of();

        /// Sets constants. `--var VARIABLE` drops an earlier one.
        @Option(names = "--var", paramLabel = "VARIABLE=VALUE", split = "\0", hideParamSyntax = true, hidden = true,
                mapFallbackValue = Option.NULL_VALUE,
                description = "Set a variable to this value in every row; repeatable.")
        @Lasts(Scope.INPUT) Map<String, String> vars = Map.of();

        @Option(names = "--sheet", paramLabel = "NAME", defaultValue = "", hidden = true,
                description = "Read this worksheet (default: the first with data).")
        @Lasts(Scope.INPUT) String sheet;

        @Option(names = "--header-row", paramLabel = "N", hidden = true,
                description = "Read the column names from this line (default: the first with text).")
        @Lasts(Scope.INPUT) Long headerRow;

        @Option(names = "--skip-rows", paramLabel = "N", hidden = true,
                description = "Skip N rows below the column names.")
        @Lasts(Scope.INPUT) Long skipRows;

        @Option(names = "--rows", paramLabel = "/PATH", defaultValue = "", hidden = true,
                description = "Read the rows of a JSON object at this path, such as /data.")
        @Lasts(Scope.INPUT) String rows;

        @Option(names = "--quote", paramLabel = "none", hidden = true,
                description = "Read quotes as text (default: quotes enclose cells).")
        @Lasts(Scope.INPUT) Csv.Quote quote;

        /// A cell cannot contain NUL, so this text is not split.
        @Option(names = "--null", paramLabel = "TEXT", split = "\0", hideParamSyntax = true, hidden = true,
                description = "Read cells that contain only TEXT as empty; repeatable.")
        @Lasts(Scope.INPUT) List<String> nulls = List.of();

        @Option(names = "--decimal", paramLabel = "C", hidden = true,
                description = "Numbers have this decimal mark: a comma or a point (default: point).")
        @Lasts(Scope.INPUT) Character decimal;

        @Option(names = "--encoding", paramLabel = "NAME",
                description = "Read the CSV in this encoding (default: UTF-8).")
        @Lasts(Scope.INPUT) Charset encoding;

        @Option(names = "--delimiter", paramLabel = "C", hidden = true,
                description = "Use this field delimiter; \"tab\" for a tab (default: detected).")
        @Lasts(Scope.INPUT) Character delimiter;

        @Option(names = "--files-column", paramLabel = "NAME", defaultValue = "", hidden = true,
                description = "Send this column's files beside the inputs (apps without a workflow).")
        @Lasts(Scope.INPUT) String filesColumn;

        /// Opens the input for a command that sends no row, so it needs no question and has no
        /// `--query-column`.
        Csv open(Path input, BatchFiles files) throws IOException {
            files.refuseAsInput(input);
            return open(input, "", Optional.of(files));
        }

        /// Opens the input. Choices that were not typed come from earlier sessions: with a
        /// different id column, every row would look new and be paid for again.
        Csv open(Path input, String queryColumn, Optional<BatchFiles> files) {
            var mapped = new LinkedHashMap<>(map);
            // null drops an earlier mapping
            mapped.replaceAll((_, variable) -> variable.isEmpty() ? null : variable);
            var typed = new Csv.Shape(idColumn, encoding, new Csv.Table(delimiter, quote, skipRows, nulls),
                    sheet.isEmpty() ? rows : sheet, headerRow, decimal, queryColumn,
                    new Csv.Names(mapped, vars, filesColumn));
            if (decimal != null && decimal != ',' && decimal != '.')
                throw new Unusable("--decimal " + Text.shell(decimal.toString()) + ": must be \",\" or \".\"");
            // without a batch, there are no earlier choices, so their log, here `input`, appears in
            // no message
            var before = files.map(BatchFiles::choices)
                    .orElse(new BatchFiles.Choices(Csv.Shape.DEFAULT, input, Optional.empty()));
            // a name alone drops a choice of an earlier session
            if (before.shape() == Csv.Shape.DEFAULT) {
                requireValues("--map", mapped, "VARIABLE");
                requireValues("--var", vars, "VALUE");
            }
            var csv = Csv.open(input, typed.after(before.shape(), before.log()));
            try {
                csv.requireSameIds(before.shape().idColumn(), before.log());
                boolean isBook = !csv.file().sheet().isEmpty();
                if (!sheet.isEmpty() && !isBook)
                    throw new Unusable("--sheet " + Text.shell(sheet) + ": " + input + " is not an Excel workbook",
                            "leave it out");
                if (!rows.isEmpty() && (isBook || !csv.file().isCopy()))
                    throw new Unusable("--rows " + Text.shell(rows) + ": " + input + " is not JSON", "leave it out");
                return csv;
            } catch (Unusable problem) {
                csv.close();
                throw problem;
            }
        }

        private static void requireValues(String option, Map<String, String> names, String value) {
            names.forEach((name, text) -> {
                if (text == null) throw new Unusable(option + " " + Text.shell(name) + " has no value",
                        "write " + option + " " + Text.shell(name + "=" + value));
            });
        }
    }

    /// Reads defaults of options from environment variables and `.env`. Ignores a setting whose
    /// option was typed, and all settings for help, because an unusable setting must prevent
    /// neither.
    record EnvDefaults(Env env, String... typed) implements IDefaultValueProvider {
        static final Map<String, String> VARIABLES = Map.of(
                "--base-url", "DIFY_API_BASE_URL", "--workflow-id", "DIFY_WORKFLOW_ID", "--timeout", "TIMEOUT",
                "--max-retries", "MAX_RETRIES");
        static final List<String> WITHOUT_OPTION = List.of("DIFY_APP_ID", "INITIAL_RETRY_DELAY", "MAX_RETRY_DELAY");

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

    // ── Views ────────────────────────────────────────────────────────────────

    /// Prints progress on stderr. A terminal shows one line, which is redrawn five times a second.
    /// Without a terminal, a new line is printed every ten seconds, so that a log of one night has
    /// only a few thousand lines. The public methods are synchronized, because both the engine's
    /// thread and the thread that watches the disk call them.
    static final class Progress implements Engine.Watcher {
        private static final Duration REDRAW_EVERY = Duration.ofMillis(200), PRINT_EVERY = Duration.ofSeconds(10);
        /// At most `MAX_CAUSES` causes are printed while rows fail, because the summary groups all
        /// of them. A part of a cause of fewer than `SHORTEST_CAUSE` characters would not be
        /// understood.
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
            this.screen = style == Style.AUTO ? Screen.withEscapeCodes(2) : Optional.empty();
            if (screen.isEmpty()) nextLineDue += PRINT_EVERY.toNanos(); // so that a short session prints none
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

        @Override
        public synchronized void say(String sentence) {
            end();
            err.println(Screen.wrap(2, Text.printable(sentence, 1000), 2));
            err.flush();
        }

        @Override
        public synchronized void onOutcome(Row row, Outcome outcome, Response response) {
            if (off || outcome.status() != RowStatus.FAILED || causes.size() == MAX_CAUSES
                    || !causes.add(Text.cause(outcome.text()))) return;
            say("Failed: " + Text.cause(outcome.text()) + " (first: " + Text.id(row.id()) + ")");
        }

        @Override
        public synchronized void end() {
            if (drawn > 0) redraw("", screen.orElseThrow().width());
            err.flush();
        }

        /// Draws the line over the previous one, which fills several lines of a
        /// terminal that has become narrower. `A` moves up, `J` clears the rest of
        /// the screen, and `K` that of the line.
        private void redraw(String line, int width) {
            int above = Math.max(0, drawn - 1) / width;
            err.print((above == 0 ? "\r" : "\r\033[" + above + "A\033[J") + line + "\033[K");
            drawn = line.length();
        }

        /// Formats the progress, with as many items as fit into `columns`, the most important
        /// first. Rows with an outcome of an earlier session (`others`) count as done.
        ///
        /// `12/20 (60 %) · 3.2/s · 2 failed · 2.6 s left · elapsed 4.1 s · 5 running
        /// · Run failed: no city`
        static String line(Tally tally, int columns) {
            long done = tally.others() + tally.done(), asked = tally.others() + tally.asked;
            var activity = tally.activity();
            var items = Stream.of(Text.number(done) + "/" + Text.number(asked) + " (" + 100 * done / Math.max(1, asked)
                            + " %)",
                    activity.pause().orElse(""),
                    tally.rate() == 0 ? "" : String.format(Locale.ROOT, "%.1f/s", tally.rate()),
                    some(tally.countOfAll(RowStatus.FAILED), "failed"),
                    some(tally.countOfAll(RowStatus.UNKNOWN), "unknown"),
                    some(tally.countOfAll(RowStatus.PAUSED), "paused"),
                    some(activity.lookUps(), "being looked up"),
                    tally.timeLeft().map(left -> Text.seconds(left) + " left").orElse(""),
                    "elapsed " + Text.seconds(tally.elapsed()),
                    activity.running() + " running" + limit(tally.pace),
                    some(activity.waiting(), "to resend"),
                    some(tally.spending.tokens(), "tokens"),
                    Figure.cost(tally.spending.prices()))
                    .filter(item -> !item.isEmpty()).collect(Collectors.toCollection(ArrayList::new));
            while (items.size() > 1 && String.join(BETWEEN, items).length() > columns) items.removeLast();
            var line = String.join(BETWEEN, items) + BETWEEN;
            if (columns - line.length() >= SHORTEST_CAUSE) tally.causes().entrySet().stream()
                    .max(Map.Entry.comparingByValue()).ifPresent(cause ->
                            items.add(Text.cutAtWord(cause.getKey(), columns - line.length())));
            return Text.cut(String.join(BETWEEN, items), columns);
        }

        private static String limit(Pace pace) {
            return pace.slots() < pace.ceiling ? " (throttled to " + pace.slots() + ")" : "";
        }

        static String some(long count, String what) {
            return count == 0 ? "" : Text.number(count) + " " + what;
        }

        enum Style {
            AUTO, PLAIN, OFF;

            @Override
            public String toString() {
                return name().toLowerCase(Locale.ROOT);
            }
        }
    }

    record Summary(Batch batch, Tally tally, PrintWriter err, Ansi paint) {
        private static final Set<String> SESSION_KEYS =
                Set.of("seconds", "total_tokens", "cost", "runs_without_price", "retries", "forms_expired");

        /// Prints everything in the order in which people ask. A row that may have been paid twice
        /// is last, where it is not overlooked.
        ///
        /// @param forecast for rows that were left out on purpose
        void print(Optional<Stop> stop, Batch.Selection selection, Optional<Forecast> forecast, String next) {
            err.println();
            stop.ifPresent(reason -> err.println(reason.text()));
            boolean isWhole = tally.done() == batch.index().size();
            var counts = RowStatus.counts(tally::count, paint::by); // such as 18 succeeded, 1 failed
            err.println((isWhole ? "" : "This session: ") + (counts.isEmpty() ? "nothing done" : counts) + " in "
                    + Text.seconds(tally.elapsed()) + " ("
                    + Figure.rate(tally.done() * 1000.0 / Math.max(1, tally.elapsed().toMillis())) + ")");
            figures(stop.isPresent()).forEach(figure -> err.println("  " + Screen.wrap(2, figure, 4)));
            selection.seed().ifPresent(seed -> err.println("  random sample; --seed " + seed
                    + " chooses the same rows in a new batch"));
            forecast.ifPresent(rest -> err.println(Screen.wrap(2, "Remaining " + rest.text(), 2)));
            if (forecast.isPresent() && selection.isLimited() && !selection.isSample())
                err.println("Note: the first rows may not be typical; --sample N chooses rows at random.");
            if (!isWhole) err.println("Batch: " + RowStatus.counts(batch.index()::count, paint::by));
            Cause.print(batch, 2, err, paint);
            StatusView.unmet(batch).ifPresent(note -> err.println("Note: " + note + "."));
            // with a wrong setting, the same command would stop again
            err.println(next);
            tally.settlesAt().ifPresent(time -> err.println("From " + Times.local(time)
                    + " on, the next run resends rows that a busy worker may hold now, unless Dify shows their runs."));
            long late = tally.count(LateEvent.class);
            if (late > 0) err.println("Warning: " + Text.count(late,
                    "run appeared after its row was", "runs appeared after their rows were")
                    + " sent again and may have been paid twice; see \"late\" in " + batch.files().log() + ".");
            err.flush();
        }

        /// Returns the lines about runs, latency and tokens. Leaves out figures that are zero. The
        /// cost covers only this session's own runs, see [Tally#ownSpending].
        ///
        /// @param early whether the session stopped early, so that runs may still be active on the
        ///              server
        private List<String> figures(boolean early) {
            long stopped = early ? tally.stopped() : 0;
            long open = early ? batch.history().inFlight() : 0;
            var figures = new ArrayList<String>();
            batch.history().last(SessionEvent.class).map(session -> session.dify().app().inWords("app: "))
                    .filter(kind -> !kind.isEmpty() && !kind.equals("app: workflow")).ifPresent(figures::add);
            if (stopped > 0) figures.add("asked Dify to stop " + Text.count(stopped, "run"));
            if (open > 0) figures.add(Text.count(open, "run") + " may still be active; the next run looks "
                    + (open == 1 ? "it" : "them") + " up");
            StatusView.table(batch, tally, tally.ownSpending).stream().filter(figure -> !figure.text().isEmpty()
                            && SESSION_KEYS.contains(figure.key()))
                    .forEach(figure -> figures.add(figure.name() + ": " + figure.text()));
            long recovered = tally.count(HarvestEvent.class), throttled = tally.count(ThrottleEvent.class);
            if (recovered > 0) figures.add(Text.count(recovered, "result") + " recovered without running again");
            if (throttled > 0)
                figures.add("throttled " + Text.count(throttled, "time") + "; concurrency " + tally.pace.span());
            if (!tally.missingFiles().isEmpty()) figures.add(StatusView.missing(batch));
            return figures;
        }
    }

    /// Holds a figure for programs (key, value) and for people (name, text). The
    /// text is empty if it says nothing.
    record Figure(String key, String name, Object value, String text) {
        static Figure of(String key, String name, long count) {
            return new Figure(key, name, count, count == 0 ? "" : Text.number(count));
        }

        static Figure of(String key, Object value) {
            return new Figure(key, key, value, "");
        }

        static String cost(Map<String, BigDecimal> prices) {
            return prices.entrySet().stream().map(price -> Text.money(price.getValue(), price.getKey()))
                    .collect(joining(", "));
        }

        static String rate(double rowsPerSecond) {
            return String.format(Locale.ROOT, "%,.1f rows/s", rowsPerSecond);
        }
    }

    /// Estimates what the pending rows of a batch will take, from the rows that have
    /// finished, with 90 % intervals.
    ///
    /// @param seconds infinite if it is not known how many rows ran at a time
    /// @param spent what the batch has cost so far, by currency
    record Forecast(long rows, Range seconds, Range tokens, SortedMap<String, Range> cost, Usage.Spending spent) {
        private static final int FEWEST_ROWS = 5; // with fewer rows, a range would be far too narrow
        /// With a normal distribution, 90 % of the values are within this many standard deviations
        /// of the mean.
        private static final double DEVIATIONS = 1.645;

        /// @param low NaN without a range, as `high` is then
        record Range(double low, double mean, double high) {
            Range dividedBy(double number) {
                return new Range(low / number, mean / number, high / number);
            }
        }

        /// Returns the forecast, or empty if no row is pending or none has finished. Failed rows
        /// count as finished. Their retries come on top, because their number is unknown.
        static Optional<Forecast> of(Batch batch) {
            var index = batch.index();
            var history = batch.history();
            var figures = batch.figures();
            var spent = figures.spending;
            long rest = index.count(RowStatus.PENDING);
            var finished = IntStream.range(0, index.size()).filter(entry -> figures.millis(entry).isPresent()
                    && (index.status(entry).isSuccess() || index.status(entry) == RowStatus.FAILED)).boxed().toList();
            if (rest == 0 || finished.isEmpty()) return Optional.empty();
            var seconds = sum(rest, finished, entry -> figures.millis(entry).getAsLong() / 1000.0);
            var cost = new TreeMap<String, Range>();
            var paid = spent.paid();
            // a run that used tokens but has no price would make the estimated cost too low
            var priced = finished.stream().filter(entry -> spent.unpriced() == 0 || history.tokens(entry) == 0
                    || paid.keySet().stream().anyMatch(currency -> history.cost(entry, currency) > 0)).toList();
            if (!priced.isEmpty()) for (var currency : paid.keySet())
                cost.put(currency, sum(rest, priced, entry -> history.cost(entry, currency)));
            return Optional.of(new Forecast(rest, seconds.dividedBy(figures.concurrency()),
                    sum(rest, finished, history::tokens), cost, spent));
        }

        /// Estimates the sum of a value over the rest of the rows. The mean of the finished rows
        /// and the values of the others both deviate from the true mean by chance.
        private static Range sum(long rest, List<Integer> finished, ToDoubleFunction<Integer> value) {
            int rows = finished.size();
            double mean = finished.stream().mapToDouble(value).average().orElseThrow();
            if (rows < FEWEST_ROWS) return new Range(Double.NaN, rest * mean, Double.NaN);
            double squares = finished.stream().mapToDouble(entry ->
                    Math.pow(value.applyAsDouble(entry) - mean, 2)).sum();
            double deviation = Math.sqrt(squares / (rows - 1));
            double margin = DEVIATIONS * deviation * Math.sqrt(rest + (double) rest * rest / rows);
            return new Range(Math.max(0, rest * mean - margin), rest * mean, rest * mean + margin);
        }

        /// Formats the forecast: `9,980 rows: likely 2 h 5 min to 2 h 40 min, 38 to 46 USD`.
        String text() {
            var figures = new ArrayList<String>();
            if (Double.isFinite(seconds.mean())) figures.add(range(seconds, (time, _) -> Text.seconds(time)));
            if (tokens.mean() > 0) figures.add(range(tokens, Forecast::figure) + " tokens");
            cost.forEach((currency, amount) ->
                    figures.add(range(amount, Forecast::figure) + " " + Text.printable(currency, 8)));
            var all = String.join(", ", figures);
            return Text.count(rows, "row") + (all.contains(" to ") ? ": likely " : ": ") + all
                    + (Double.isNaN(tokens.low()) ? " (too few rows for a range)" : "");
        }

        /// Formats a range, rounded outwards, so that rounding does not make it narrower.
        private static String range(Range bounds, BiFunction<Double, RoundingMode, String> text) {
            if (Double.isNaN(bounds.low())) return text.apply(bounds.mean(), RoundingMode.HALF_UP);
            var low = text.apply(bounds.low(), RoundingMode.FLOOR);
            var high = text.apply(bounds.high(), RoundingMode.CEILING);
            return low.equals(high) ? low : low + " to " + high;
        }

        /// Formats a figure with two digits, because the estimate is not more exact than that.
        private static String figure(double number, RoundingMode rounding) {
            return Text.number(twoDigits(new BigDecimal(number), rounding));
        }

        /// Rounds to two digits, first to nine, so that the error of a sum such as
        /// 0.1 + 0.2 is not rounded up.
        private static BigDecimal twoDigits(BigDecimal number, RoundingMode rounding) {
            return number.round(new MathContext(9)).round(new MathContext(2, rounding));
        }

        /// Returns the upper bound of the whole batch's cost, for `--max-cost`. Returns empty if
        /// there is no bound, or if there are several currencies, because `--max-cost` limits each.
        Optional<String> maxCost() {
            if (cost.size() != 1 || Double.isNaN(cost.firstEntry().getValue().high())) return Optional.empty();
            var most = spent.estimated().get(cost.firstKey()).add(new BigDecimal(cost.firstEntry().getValue().high()));
            return Optional.of(twoDigits(most, RoundingMode.CEILING).stripTrailingZeros().toPlainString());
        }

        Map<String, Object> json() {
            var amounts = object();
            cost.forEach((currency, amount) -> amounts.put(currency, json(amount)));
            return object("rows", rows, "seconds", json(seconds), "tokens", json(tokens), "cost", amounts);
        }

        private static Map<String, Object> json(Range figure) {
            return object("low", rounded(figure.low()), "mean", rounded(figure.mean()),
                    "high", rounded(figure.high()));
        }

        /// Rounds to six digits, because the estimate does not support all digits of a double. JSON
        /// has no NaN, so an unknown number is null.
        private static BigDecimal rounded(double number) {
            return Double.isFinite(number) ? new BigDecimal(number).round(new MathContext(6))
                    .stripTrailingZeros() : null;
        }
    }

    static final class CheckView {
        private static final int MAX_PROBLEMS = 20; // they fill a screen, and --json lists all of them

        /// Lists the columns that reach the workflow; a note lists the others. Without a form, all
        /// columns reach it. The two names share what the other cells (44) and an example (24)
        /// leave of the terminal's columns, with 14 to 60 columns for each.
        static void print(Inspection inspection, ServerInfo server, Optional<Integer> width, PrintWriter out) {
            out.println("App " + Text.quoted(server.app()) + " (" + server.kind().word() + ") on Dify "
                    + Text.printable(server.version(), 40) + ", " + Text.count(inspection.rows(), "row"));
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

        /// Prints notes, faults and the first problems, in lines of at most `width` characters.
        static void printProblems(Inspection inspection, Optional<Integer> width, PrintWriter out) {
            UnaryOperator<String> lines = text -> WordUtils.wrap(text, width.orElse(10_000));
            inspection.notes().forEach(note -> out.println(lines.apply("Note: " + Text.printable(note, 500))));
            inspection.faults().forEach(fault -> out.println(lines.apply("Problem: "
                    + Text.printable(fault.text(), 500))));
            if (inspection.options().stream().anyMatch(option -> option.contains(" " + Repair.COLUMN))) {
                out.println("Columns without a variable, each with an example:");
                var columns = inspection.columns().stream().filter(column -> column.variable().isEmpty()).toList();
                Text.printFirst(columns, MAX_PROBLEMS, column -> out.println(lines.apply("  "
                        + Text.printable(column.column(), 60) + ": " + column.example())),
                        "%s columns (check --json lists all)", out);
            }
            Text.printFirst(inspection.problems(), MAX_PROBLEMS, problem -> out.println(lines.apply(problem.text())),
                    "%s problems (check --json lists all)", out);
        }

        /// Prints a request as JSON, then as a command for `curl`. Only the key is masked, so it
        /// can be tried by hand. The command contains the app's id if it is set, because a key can
        /// belong to several apps.
        static void printRequest(Attempt attempt, Form form, DifyClient client, PrintWriter out) {
            var sent = new String(client.body(attempt, form.values(attempt.row())), UTF_8);
            // JSON can contain marks that turn a line around
            var body = Text.printable(sent, Integer.MAX_VALUE);
            out.println("\n" + body);
            out.println("curl -X POST " + Text.shell(client.startAddress().toString())
                    + " -H " + Text.shell("Authorization: Bearer app-***")
                    + (client.access().appId().isEmpty() ? ""
                            : " -H " + Text.shell("X-Dify-App-ID: " + client.access().appId()))
                    + " -H " + Text.shell("Content-Type: application/json") + " -d "
                    + Text.shell(body));
        }
    }

    /// Shows the progress of a batch from its files, as a table or as JSON.
    static final class StatusView {
        private static final int BAR = 30; // characters of a bar for all rows; a line then fits into 80 columns
        /// Orders the bars and the JSON keys. Scripts rely on this order.
        private static final List<RowStatus> ORDER = List.of(RowStatus.SUCCEEDED, RowStatus.PARTIAL,
                RowStatus.FAILED, RowStatus.PAUSED, RowStatus.UNKNOWN, RowStatus.PENDING);

        /// Prints how far the batch is, how long it takes, why rows failed, what is unusual, and
        /// what to do next. This is the order in which users ask.
        static void print(Batch batch, PrintWriter out, Ansi paint, String next) {
            out.println(Screen.wrap(1, headline(batch, paint), 2));
            out.println();
            // 10 characters are enough for any status
            bars(counts(batch.index()::count), 10, RowStatus::word, paint::by).forEach(out::println);
            out.println();
            figures(batch).forEach((name, figure) -> out.println("  " + paint.faint("%-15s".formatted(name))
                    + Screen.wrap(1, figure, 17)));
            if (batch.index().onRetryList().findAny().isPresent()) out.println();
            Cause.print(batch, 1, out, paint);
            var notes = notes(batch);
            if (!notes.isEmpty()) out.println();
            notes.forEach(note -> out.println("  Note: " + Screen.wrap(1, note, 8)));
            out.println();
            out.println(next);
            out.flush();
        }

        static String title(Batch batch) {
            return batch.files().results().getFileName().toString();
        }

        /// Titles a report with app, input and the day of the last session:
        /// `Reviews: data.csv, 2026-12-01`.
        static String subject(Batch batch) {
            return batch.history().last(SessionEvent.class).map(last -> Text.around("",
                    Text.printable(Objects.requireNonNullElse(last.dify().name(), ""), 100), ": ")
                    + last.csv().file(batch.files().results()).map(file -> file.getFileName().toString())
                            .orElse(title(batch)) + Times.local(", yyyy-MM-dd", last.t())).orElse(title(batch));
        }

        /// Formats the first line: `results.jsonl: 20 rows · Dify 1.16.0 · version 3f2c…`
        static String headline(Batch batch, Ansi paint) {
            int rows = batch.index().rows();
            var versions = batch.index().versions();
            var about = batch.history().last(SessionEvent.class)
                    .map(session -> session.dify().app().inWords(" · ") + " · "
                            + Text.printable("Dify " + session.dify().version(), 80)).orElse("");
            if (!versions.isEmpty()) about += (versions.size() == 1 ? " · version " : " · versions ")
                    + Text.joinFirst(3, versions.stream().map(version -> Text.printable(version, 40)));
            return paint.bold(batch.files().results().toString()) + ": " + Text.count(rows, "row")
                    + paint.faint(about);
        }

        /// Draws a bar for each count above zero: `  succeeded           19   95.0 %
        /// █████████████████████████████`. The smallest count still gets one block,
        /// so that it is not overlooked.
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

        static Map<String, String> figures(Batch batch) {
            var shown = new LinkedHashMap<String, String>();
            table(batch, batch.figures(), batch.figures().spending).stream()
                    .filter(figure -> !figure.text().isEmpty())
                    .forEach(figure -> shown.put(figure.name(), figure.text()));
            return shown;
        }

        /// Returns how many rows got an outcome per second of running time, over all sessions, or 0
        /// if no time has passed.
        private static double rate(Batch batch) {
            long millis = batch.figures().timeTaken().toMillis();
            var index = batch.index();
            return millis == 0 ? 0 : (index.rows() - index.count(RowStatus.PENDING)) * 1000.0 / millis;
        }

        static Optional<String> unmet(Batch batch) {
            var history = batch.history();
            IntPredicate isRow = batch.index()::isRow; // rows that are not in the CSV cannot run at all
            long unmet = history.kept(false).filter(isRow).count() - history.kept(true).filter(isRow).count();
            return unmet == 0 ? Optional.empty() : Optional.of(Text.count(unmet, "row was", "rows were")
                    + " paid for but failed --require; 'retry' sends, and pays for, such rows again");
        }

        /// Lists anomalies of a batch. `run` and `retry` report them too, before they continue the
        /// batch. A session that stopped early is no longer an anomaly when all rows have
        /// succeeded.
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
                    + "); --rerun-changed runs " + (changed.length == 1 ? "it" : "them") + " again");
            int strangers = index.size() - index.rows(); // they follow the rows of the CSV
            if (strangers > 0) notes.add(Text.count(strangers, "id of the batch is", "ids of the batch are")
                    + " not in the CSV (first: " + Text.id(index.id(index.rows())) + ")");
            unmet(batch).ifPresent(notes::add);
            // a retry would ask a person to fill in the form again
            var answered = history.kept(true).filter(index::isRow).mapToObj(index::id).map(Text::id).toList();
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
                    + "); see 'missing' in the results; 'retry --again ID' runs the row again, and you pay again";
        }

        /// Returns the status for `--json`. Scripts rely on the keys and their order; see
        /// docs/files.md.
        static Map<String, Object> json(Batch batch) {
            var json = json(counts(batch.index()::count));
            table(batch, batch.figures(), batch.figures().spending)
                    .forEach(figure -> json.put(figure.key(), figure.value()));
            return json;
        }

        /// Lists what is known about a batch. Scripts rely on the keys and their
        /// order; see docs/files.md.
        ///
        /// @param figures those of the batch or of its last session
        static List<Figure> table(Batch batch, Figures figures, Usage.Spending spent) {
            var index = batch.index();
            var history = batch.history();
            var missing = figures.missingFiles();
            var latencies = figures.latencies();
            // a shorter time has too few rows for a rate
            boolean isLong = figures.timeTaken().toSeconds() >= 10;
            double rate = rate(batch);
            boolean isPriced = !spent.prices().isEmpty() && spent.unpriced() > 0;
            var forecast = Forecast.of(batch);
            long expired = figures.count(ExpiredEvent.class);
            var live = history.liveSession();
            return List.of(Figure.of("attempts", "attempts", figures.count(AttemptEvent.class)),
                    Figure.of("retries", "sent again", figures.retries()),
                    Figure.of("total_tokens", "tokens", figures.spending.tokens()),
                    Figure.of("started_at", figures.startedAt().map(Times::text).orElse(null)),
                    Figure.of("updated_at", figures.updatedAt().map(Times::text).orElse(null)),
                    Figure.of("errors", Cause.groups(batch).stream().map(Cause.Group::json).toList()),
                    new Figure("running_seconds", "active time", figures.timeTaken().toMillis() / 1000.0,
                            figures.startedAt().map(start -> Text.seconds(figures.timeTaken()) + " ("
                                    + Times.local("yyyy-MM-dd HH:mm:ss", start) + " to "
                                    + Times.local(figures.updatedAt().get()) + ")").orElse("")),
                    new Figure("rows_per_second", "throughput", Math.round(rate * 1000) / 1000.0,
                            isLong ? Figure.rate(rate) : ""),
                    new Figure("seconds", "latency", latencies, latencies.entrySet().stream()
                            .map(one -> one.getKey() + " " + Text.seconds(one.getValue())).collect(joining(", "))),
                    new Figure("cost", "cost", spent.prices(), Figure.cost(spent.prices())),
                    Figure.of("in_flight", "unfinished", history.inFlight()),
                    Figure.of("late", figures.count(LateEvent.class)),
                    Figure.of("lost_results", history.lost().size()),
                    Figure.of("unread_lines", history.unreadableLines()),
                    Figure.of("ids_not_in_input", index.size() - index.rows()),
                    Figure.of("missing_files", object("count",
                            missing.values().stream().mapToInt(Integer::intValue).sum(), "rows", missing.size(),
                            "ids", missing.keySet().stream().limit(3).map(index::id).toList())),
                    Figure.of("versions", List.copyOf(index.versions())),
                    Figure.of("changed_in_input", history.changed().count()),
                    // without any price, every run lacks one
                    new Figure("runs_without_price", "cost lacks", spent.unpriced(),
                            isPriced ? Text.count(spent.unpriced(), "run") + " (estimated total: "
                                    + Figure.cost(spent.estimated()) + ")" : ""),
                    Figure.of("stopped", history.stopped().orElse(null)),
                    new Figure("forecast", "remaining", forecast.map(Forecast::json).orElse(null),
                            forecast.map(Forecast::text).orElse("")),
                    new Figure("running", "running", live.map(session -> object("process",
                            session.program().process().id(), "since", Times.text(session.t()))).orElse(null),
                            live.map(session -> "since " + Times.local("yyyy-MM-dd HH:mm:ss", session.t())
                                    + " (process " + session.program().process().id() + ")").orElse("")),
                    new Figure("forms_expired", "form expired", expired,
                            expired > 0 ? Text.count(expired, "run") : ""));
        }
    }

    record Cause(RowStatus outcome, String text) {
        static Cause of(Batch batch, int entry) {
            return new Cause(batch.index().status(entry), batch.history().cause(entry));
        }

        /// Holds the failed, paused or unknown rows of one cause.
        ///
        /// @param until when the first of their forms expires; empty if none of them expires
        record Group(Cause cause, List<String> ids, String until) {
            static Group of(Batch batch, Cause cause, List<Integer> entries) {
                return new Group(cause, entries.stream().map(batch.index()::id).toList(), entries.stream()
                        .flatMap(batch.history()::forms).map(Event.FormEvent::until).filter(time -> !time.isEmpty())
                        .min(Comparator.naturalOrder()).orElse("")); // times in UTC sort as text
            }

            /// Formats a cause and its first rows: `3 × unknown: the connection
            /// broke before a response (r-1, …)`
            String line() {
                var examples = Text.joinFirst(3, ids.stream().map(Text::id));
                return Text.number(ids.size()) + " × " + Text.printable(cause.words(), 160)
                        + Event.FormEvent.untilText(until) + " (" + examples + ")";
            }

            Map<String, Object> json() {
                return object("outcome", cause.outcome().word(),
                        "cause", cause.text() + Event.FormEvent.untilText(until), "count", ids.size(),
                        "ids", ids.stream().limit(3).toList());
            }
        }

        /// Returns the causes, the most frequent first. Causes that are equally frequent stay in
        /// the order in which they occur in the CSV.
        static List<Group> groups(Batch batch) {
            var groups = batch.index().onRetryList().boxed().collect(Collectors.groupingBy(entry -> of(batch, entry),
                    LinkedHashMap::new, Collectors.toList()));
            return groups.entrySet().stream().map(group -> Group.of(batch, group.getKey(), group.getValue()))
                    .sorted(Comparator.comparingInt(group -> -group.ids().size())).toList();
        }

        /// Returns the cause for display, such as `unknown: the connection broke before a
        /// response`. Most of the listed rows failed, so that word is left out.
        String words() {
            return outcome == RowStatus.FAILED ? text : outcome.word() + ": " + text;
        }

        static void print(Batch batch, int descriptor, PrintWriter out, Ansi paint) {
            // more causes would push the next command off the screen
            Text.printFirst(groups(batch), 10, group -> out.println("  " + paint.by(group.cause().outcome(),
                    Screen.wrap(descriptor, group.line(), 4))), "  %s causes", out);
        }
    }

    /// Writes an Excel workbook, or a CSV for spreadsheets: UTF-8 with byte order
    /// mark, CR LF, and escaped formulas.
    static final class Spreadsheet {
        /// Lists the last columns. Renaming one breaks the spreadsheets of users that refer to it.
        private static final List<String> ENDING = List.of("status", "error", "run_id", "attempts", "seconds", "tokens",
                "price", "currency", "edited");
        /// Matches characters that XML, and so a workbook, cannot contain, and other control
        /// characters, which could change what a terminal or spreadsheet shows. Tab and line breaks
        /// stay.
        private static final Pattern CONTROLS =
                Pattern.compile("[\\x00-\\x08\\x0B\\f\\x0E-\\x1F\\x7F-\\x9F\\p{Cs}\uFFFE\uFFFF]");
        /// Matches numbers such as `-5`, which begin like formulas but do no harm.
        static final Pattern NUMBER = Pattern.compile("[+-]?(\\d+([.,]\\d+)*|[.,]\\d+)([eE][+-]?\\d+)?%?");

        private final Path path;
        private final char delimiter;
        private final boolean raw;
        private CellWriter cells; // null if a workbook is written
        private BookWriter book;
        private long rows = -1, escaped = 0, tooLong = 0; // rows starts at -1 because the header is not a row

        /// @param raw whether a CSV keeps formulas and control characters, for
        ///            programs that do not run formulas
        Spreadsheet(Path path, char delimiter, boolean raw) {
            this.path = path;
            this.delimiter = delimiter;
            this.raw = raw;
        }

        /// Begins the file with its header. The byte order mark of a CSV makes Excel
        /// read it as UTF-8.
        void open(OutputStream out, Collection<String> head) throws IOException {
            if (path.toString().toLowerCase(Locale.ROOT).endsWith(".xlsx")) book = new BookWriter(out);
            else cells = new CellWriter(Json.utf8(out).append('\uFEFF'), delimiter);
            write(head, new BitSet());
        }

        /// Writes a row. Workbooks need no escapes. Their texts are never run as formulas.
        ///
        /// @param typed the columns whose cells may be numbers or dates; all others are texts, even
        ///              if they look like numbers
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

        /// Puts a `'` before text that a spreadsheet would run as a formula, and replaces control
        /// characters. A text of 100 characters is not a number, and a much longer one would
        /// overflow the stack of the pattern's repetition.
        private String escaped(String cell) {
            var clean = withoutControls(cell);
            if (clean.isEmpty() || "=+-@\t\r".indexOf(clean.charAt(0)) < 0
                    || clean.length() < 100 && NUMBER.matcher(clean).matches()) return clean;
            escaped++;
            return "'" + clean;
        }

        static String cell(JsonNode value) {
            return value == null || value.isNull() ? "" : ResultLine.text(value);
        }

        void printSummary(PrintWriter err, String about) {
            err.println(Text.count(rows, "row") + about + " → " + path);
            if (escaped > 0) err.println("Escaped " + Text.count(escaped, "cell that looks like a formula",
                    "cells that look like formulas") + ".");
            if (tooLong > 0) err.println(Text.count(tooLong, "cell is", "cells are") + " longer than "
                    + Text.number(BookWriter.LONGEST) + " characters: Excel cuts off the rest.");
            err.flush();
        }

        /// Writes a batch in the input's order: the input's columns, `output.<name>` for each
        /// output, then the outcome. If two have the same name, the later one gets a prefix,
        /// because programs find columns by their names.
        ///
        /// @param failed whether to leave out all rows but those that `retry` runs
        void export(Batch batch, Set<String> outputs, boolean failed, OutputStream out) throws IOException {
            var csv = batch.csv().orElseThrow();
            var head = new LinkedHashSet<String>();
            // a constant may have the name of a column that is sent under another name
            for (var input : csv.inputs())
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
                    int place = 0; // the inputs are in the order of the columns
                    for (var name : row.inputs().keySet()) typed.set(place++, row.typed().contains(name));
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

        /// Returns the cells for the columns [#ENDING]. The seconds come from the
        /// log, or else from the result.
        private static List<String> ending(Batch batch, int entry, ResultLine end) {
            long attempts = batch.history().attempts(entry);
            var millis = batch.figures().millis(entry);
            var seconds = end.text("elapsed_time");
            if (millis.isPresent()) seconds = BigDecimal.valueOf(millis.getAsLong(), 3).toPlainString();
            return List.of(batch.index().status(entry).word(), end.text("error"), end.run(),
                    attempts == 0 ? "" : Long.toString(attempts), seconds, end.text("total_tokens"),
                    end.text("total_price"), end.text("currency"), end.isEdited() ? "true" : "");
        }
    }

    /// Writes an Excel workbook with one worksheet. No cell is a formula.
    static final class BookWriter {
        /// Excel allows `LONGEST` characters in a cell.
        static final int LONGEST = 32_767;
        private static final int BLOCK_ROWS = 1000;
        /// Matches numbers without leading zeros, which a number would lose.
        private static final Pattern NUMBER = Pattern.compile("-?(0|[1-9]\\d*)(\\.\\d+)?");

        private final Workbook book;
        private final Worksheet sheet;
        private final Map<Integer, Integer> widths = new HashMap<>();
        private int row = 0;

        BookWriter(OutputStream out) {
            // no version, because it must look like Excel's, such as 16.03
            book = new Workbook(out, "difyexec", null);
            sheet = book.newWorksheet("Results");
            sheet.freezePane(0, 1); // the header, which is one row, stays in view
        }

        /// Writes a row. Fails at Excel's limits, because the rest would be lost without a message.
        void write(Collection<String> cells, BitSet typed) throws IOException {
            if (row == Book.MAX_ROWS || cells.size() > Book.MAX_COLUMNS)
                throw new Unusable("too large for an Excel worksheet (" + Text.number(Book.MAX_ROWS) + " rows, "
                        + Text.number(Book.MAX_COLUMNS) + " columns)", "export a .csv");
            int column = 0;
            for (var whole : cells) {
                var cell = whole.substring(0, Math.min(LONGEST, whole.length())); // `tooLong` counts these
                // in characters, wide enough for a short name, and not so wide that a text fills
                // the screen
                widths.merge(column, Math.clamp(cell.length() + 2, 8, 60), Math::max);
                boolean isValue = typed.get(column) && (writeNumber(column, cell) || writeMoment(column, cell));
                if (!isValue && !cell.isEmpty()) writeText(column, cell);
                column++;
            }
            if (++row % BLOCK_ROWS == 0) flush();
        }

        /// Writes a text as an inline string. The other form, `value`, keeps spaces at the ends,
        /// but all such texts stay in memory until the end.
        private void writeText(int column, String cell) {
            if (cell.equals(cell.strip())) sheet.inlineString(row, column, escaped(cell));
            else sheet.value(row, column, escaped(cell));
        }

        /// Writes a number unless the cell must stay text, because Excel keeps only 15 digits.
        private boolean writeNumber(int column, String cell) {
            boolean isNumber = NUMBER.matcher(cell).matches()
                    && new BigDecimal(cell).stripTrailingZeros().precision() <= 15;
            if (isNumber) sheet.value(row, column, new BigDecimal(cell));
            return isNumber;
        }

        /// Writes a date, a time or both, which Excel stores as a number with a format. A time is a
        /// part of a day of 86,400 seconds. Returns false if the cell must stay text.
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

        /// Writes the collected rows. The widths come before the first rows in the file, so later
        /// rows cannot change them.
        private void flush() throws IOException {
            if (row <= BLOCK_ROWS) widths.forEach((column, width) -> sheet.width(column, width));
            sheet.flush();
        }

        /// Escapes the first underscore of text such as `_x000D_`, which Excel would read as a line
        /// break.
        private static String escaped(String cell) {
            return Book.ESCAPE.matcher(cell).replaceAll("_x005F$0");
        }

        void finish() throws IOException {
            if (!widths.isEmpty()) sheet.setAutoFilter(0, 0, row - 1, widths.size() - 1);
            if (row < BLOCK_ROWS) flush(); // sets the widths, for which there was no block yet
            book.finish();
        }
    }

    /// Writes a self-contained page that opens offline, with all rows to search. [Html] draws it
    /// from JSON, so that a value cannot become markup.
    static final class WebPage {
        /// Marks a page of this tool, which the next one may overwrite.
        static final String MARK = "<meta name=\"generator\" content=\"difyexec ";
        /// Each script element contains `BLOCK_ROWS` rows. A browser parses one element at a time,
        /// so it stays responsive. Each value is cut to `LONGEST` characters, so that a browser can
        /// show 100,000 rows. The results are complete.
        private static final int BLOCK_ROWS = 5_000, LONGEST = 2_000;
        /// Its *Download CSV* escapes the same texts as an export.
        private static final String SCRIPT = Html.SCRIPT.replace("{NUMBER}", Spreadsheet.NUMBER.pattern());

        /// Writes the HTML report of a batch. The CSV's rows come first, in its
        /// order, so one iterator reads all of them. Inputs come from the result if
        /// there is one, because the CSV may have changed since.
        static void report(Batch batch, OutputStream file) throws IOException {
            var groups = Cause.groups(batch);
            var causes = new HashMap<Cause, Integer>();
            groups.forEach(group -> causes.put(group.cause(), causes.size()));
            var totals = new LinkedHashMap<String, Long>();
            StatusView.counts(batch.index()::count).forEach((status, rows) -> totals.put(status.word(), rows));
            try (var ends = new LineOffsets.RowEnds(batch)) {
                var rows = batch.rows(_ -> true);
                write(file, object("title", StatusView.subject(batch), "file", StatusView.title(batch),
                        "about", List.of(StatusView.headline(batch, Ansi.OFF)), "totals", totals,
                        "figures", StatusView.figures(batch), "notes", StatusView.notes(batch),
                        "causes", groups.stream().map(Cause.Group::json).toList()), batch.index().size(), entry -> {
                            var status = batch.index().status(entry);
                            var end = ends.of(entry);
                            var traces = ends.traces(entry);
                            var inputs = new LinkedHashMap<>(end.inputs());
                            // the last rows of the batch may not be in the CSV
                            var cells = rows.hasNext() ? rows.next().inputs() : Map.<String, String>of();
                            if (inputs.isEmpty())
                                cells.forEach((column, cell) -> inputs.put(column, TextNode.valueOf(cell)));
                            return prune(object("id", batch.index().id(entry), "outcome", status.word(),
                                    "cause", causes.get(Cause.of(batch, entry)),
                                    "seconds", seconds(batch, entry), "tokens", end.text("total_tokens"), "price",
                                    (end.text("total_price") + " " + end.text("currency")).strip(), "run", end.run(),
                                    "edited", end.isEdited(), "inputs", values(inputs),
                                    "outputs", values(status.isSuccess() ? end.outputs() : unmet(traces)),
                                    "attempts", attempts(traces, end.run())));
                        });
            }
        }

        /// Writes a page. Its policy allows only this style and script, by their hashes, so that
        /// nothing in a value can run. Rows are written one by one to save memory.
        static void write(OutputStream file, Map<String, Object> batch, int rows,
                IOFunction<Integer, Map<String, Object>> row) throws IOException {
            // few large writes, because a page may be large
            var out = new BufferedWriter(Json.utf8(file), 1 << 16);
            out.write(Html.HEAD.formatted(hash(Html.STYLE), hash(SCRIPT), VERSION, Html.STYLE) + Html.BODY);
            out.write("<script type=\"application/json\" id=\"batch\">" + json(batch) + "</script>\n");
            for (int n = 0; n < rows; n++) {
                out.write(n % BLOCK_ROWS == 0 ? "<script type=\"application/json\" class=\"rows\">[" : ",");
                out.write(json(row.apply(n)) + "\n");
                if (n % BLOCK_ROWS == BLOCK_ROWS - 1 || n == rows - 1) out.write("]</script>\n");
            }
            out.write("<script>" + SCRIPT + "</script>\n</body>\n</html>\n");
            out.flush();
        }

        /// Returns the hash by which a Content-Security-Policy allows a script or a style.
        private static String hash(String content) {
            return "sha256-" + Base64.getEncoder().encodeToString(Fingerprint.sha256().digest(content.getBytes(UTF_8)));
        }

        /// Returns JSON without the characters that could end the script element around it, because
        /// a value may contain `</script>`.
        private static String json(Object value) {
            return Json.text(value).replace("<", "\\u003C").replace(">", "\\u003E").replace("&", "\\u0026");
        }

        static Map<String, Object> values(Map<String, JsonNode> values) {
            var shown = new LinkedHashMap<String, Object>();
            // a name may have any length
            values.forEach((name, value) -> shown.put(Text.cut(name, 200), value(value)));
            return shown;
        }

        /// Returns text as is and other values as `json`. If a value is cut, its `length` is added.
        private static Object value(JsonNode value) {
            var text = ResultLine.text(value);
            if (text.length() > LONGEST) return object("text", Text.cut(text, LONGEST), "length", text.length());
            return value.isTextual() ? text : object("json", text);
        }

        /// Leaves out empty and zero fields to keep the page small, which may have 100,000 rows. An
        /// `Integer` 0 stays, because it is the index of the first cause.
        static Map<String, Object> prune(Map<String, Object> object) {
            object.values().removeIf(value -> value == null || value.equals("") || value.equals(0L)
                    || value.equals(0.0) || value.equals(false));
            return object;
        }

        static double seconds(Batch batch, int entry) {
            return batch.figures().millis(entry).orElse(0) / 1000.0;
        }

        /// Returns the outputs that failed `--require`, from the log, because memory
        /// does not keep them.
        private static Map<String, JsonNode> unmet(List<LineOffsets.RowEnds.Trace> traces) {
            return traces.stream().flatMap(trace -> trace.all(EndEvent.class).stream()).reduce((_, last) -> last)
                    .map(end -> ResultLine.of(end).outputs()).orElse(Map.of());
        }

        /// Returns the attempts of a row, each with its last outcome.
        ///
        /// @param run the row's own run; an attempt shows its run only if that is another one
        private static List<Map<String, Object>> attempts(List<LineOffsets.RowEnds.Trace> traces, String run) {
            return traces.stream().map(trace -> {
                var attempt = object("start", trace.attempt().t().toEpochMilli(),
                        "mode", trace.attempt().mode().toString());
                trace.all(EndEvent.class).reversed().stream().findFirst().ifPresent(end -> attempt.putAll(prune(object(
                        "outcome", end.outcome(), "seconds", end.last().seconds(), "error", trace.error(end),
                        "run", end.last().run().equals(run) ? "" : end.last().run()))));
                return attempt;
            }).toList();
        }
    }

    /// Compares the results of two files, row by row, or checks those of one file against expected
    /// values. Views read each row again, because a batch need not fit into memory.
    static final class Comparison implements AutoCloseable {
        /// Limit the rows, and the characters of a text, on the terminal. `--all` and the files
        /// show more.
        private static final int MAX_ROWS = 10, LONGEST = 300;
        static final String JUNIT_MARK = "<!-- difyexec "; // so that the next --junit may overwrite it

        /// Both are the same side if there is only one file, so that nothing differs.
        private final Side first, second;
        private final Scope scope;
        private final Expectations expected;
        /// Holds the rows of the files, followed by those that have an expected value and are in no
        /// file.
        private final Index rows = new Index();
        private int recorded; // how many of these rows are in the files
        private final Map<Match, Long> matches = new EnumMap<>(Match.class);
        private final Map<Grade, Long> grades = new EnumMap<>(Grade.class);
        private final Map<String, Long> outputs = new LinkedHashMap<>(); // counts different rows by output
        private final Set<String> inputNames = new LinkedHashSet<>(), pointers = new LinkedHashSet<>();
        private final BitSet unequal = new BitSet(); // marks the rows that differ or miss an expected value
        private long otherInputs = 0;
        private List<Metric> metrics = List.of();

        /// Compares the results of a row. `FAILED_FIRST` and `FAILED_SECOND` include rows that are
        /// paused or unknown. The views list the constants in this order.
        enum Match implements Named {
            SAME, DIFFERENT, ONLY_FIRST, ONLY_SECOND, FAILED_FIRST, FAILED_SECOND, NEITHER;

            /// Classifies a row. A pending row counts as absent on its side.
            ///
            /// @param isEqual whether the outputs are equal, which counts if both sides succeeded
            static Match of(RowStatus first, RowStatus second, boolean isEqual) {
                if (first.isSuccess() && second.isSuccess()) return isEqual ? SAME : DIFFERENT;
                if (first == second && first == RowStatus.PENDING) return NEITHER;
                if (first == RowStatus.PENDING) return ONLY_SECOND;
                if (second == RowStatus.PENDING) return ONLY_FIRST;
                if (first.isSuccess()) return FAILED_SECOND;
                return second.isSuccess() ? FAILED_FIRST : NEITHER;
            }

            boolean isDifference() {
                return this != SAME && this != NEITHER;
            }

            /// Returns words for people, with the names of the sides.
            String words(String first, String second) {
                return switch (this) {
                    case SAME, DIFFERENT, NEITHER -> word();
                    case ONLY_FIRST -> "only in " + first;
                    case ONLY_SECOND -> "only in " + second;
                    case FAILED_FIRST -> "failed in " + first;
                    case FAILED_SECOND -> "failed in " + second;
                };
            }
        }

        /// Grades a row of the second side, by expected values or else by the first side.
        enum Grade implements Named { CORRECT, MISSED, NO_RESULT, NOT_JUDGED }

        /// Selects a part of the outputs by its JSON pointer, or all but the ignored ones.
        record Scope(String part, Set<String> ignored, JsonDiff diff) {
            Set<String> pointers(Result result) {
                if (!part.isEmpty()) return result.at(part).isMissingNode() ? Set.of() : Set.of(part);
                return result.end().outputs().keySet().stream().filter(name -> !ignored.contains(name))
                        .map(JsonDiff::pointer).collect(Collectors.toCollection(LinkedHashSet::new));
            }

            /// Returns the differences between two successes, by output.
            Map<String, List<JsonDiff.Difference>> differences(Result first, Result second) {
                var differences = new LinkedHashMap<String, List<JsonDiff.Difference>>();
                if (!first.isSuccess() || !second.isSuccess()) return differences;
                Stream.of(first, second).map(this::pointers).flatMap(Set::stream).distinct().forEach(pointer ->
                        differences.put(pointer, diff.of(pointer, first.at(pointer), second.at(pointer))));
                differences.values().removeIf(List::isEmpty);
                return differences;
            }
        }

        /// Holds the results of one file.
        static final class Side {
            final String name;
            final Batch batch;
            private final LineOffsets.RowEnds ends;
            private long judged = 0; // counts rows
            private long correct = 0; // counts those that succeeded as expected

            Side(String name, Batch batch) {
                this.name = name;
                this.batch = batch;
                ends = new LineOffsets.RowEnds(batch);
            }

            /// Returns the ids in the order in which their rows were sent.
            Stream<String> ids() {
                return batch.offsets().inOrderOfSending(batch.index().size()).stream().map(batch.index()::id);
            }

            Result result(String id, Expectations expected) {
                int entry = batch.index().find(id);
                if (entry < 0) return new Result(batch, entry, ResultLine.NONE, Optional.empty());
                var end = ends.of(entry);
                boolean isCorrect = batch.index().status(entry).isSuccess() && expected.isMet(id, end);
                return new Result(batch, entry, end, expected.isJudged(id) ? Optional.of(isCorrect) : Optional.empty());
            }

            void countJudged(boolean isCorrect) {
                judged++;
                if (isCorrect) correct++;
            }

            long judged() {
                return judged;
            }

            long correct() {
                return correct;
            }

            /// @param percentile such as `p50`
            double seconds(String percentile) {
                return batch.figures().latencies().getOrDefault(percentile, Double.NaN);
            }

            void close() {
                ends.close();
            }
        }

        /// Holds a row's result in one file. The entry is -1 if the file does not contain the row.
        ///
        /// @param correct whether the row succeeded as expected; empty if it is not judged
        record Result(Batch batch, int entry, ResultLine end, Optional<Boolean> correct) {
            RowStatus status() {
                return entry < 0 ? RowStatus.PENDING : batch.index().status(entry);
            }

            boolean isSuccess() {
                return status().isSuccess();
            }

            JsonNode at(String pointer) {
                return end.at(JsonPointer.compile(pointer));
            }

            String error() {
                return end.text("error");
            }

            double seconds() {
                return entry < 0 ? 0 : WebPage.seconds(batch, entry);
            }
        }

        /// Holds a row's results, and how they differ by output.
        record Pair(String id, Result first, Result second, Map<String, List<JsonDiff.Difference>> byOutput) {
            Match match() {
                return Match.of(first.status(), second.status(), byOutput.isEmpty());
            }

            String trend() {
                if (first.correct().isEmpty() || second.correct().isEmpty()) return "";
                if (first.correct().equals(second.correct())) return "";
                return first.correct().get() ? "worse" : "better";
            }

            List<JsonDiff.Difference> differences() {
                return byOutput.values().stream().flatMap(List::stream).toList();
            }

            /// Returns whether both rows succeeded with inputs that are recorded and differ. A line
            /// without inputs shows no difference.
            boolean hasOtherInputs() {
                Map<String, JsonNode> one = first.end().inputs(), two = second.end().inputs();
                return first.isSuccess() && second.isSuccess() && !one.isEmpty() && !two.isEmpty() && !one.equals(two);
            }
        }

        /// Holds how a number is written for people: its unit and its significant digits.
        record NumberForm(String unit, MathContext digits) {
            private static final MathContext SHORT = new MathContext(3);
            static final NumberForm COUNT = new NumberForm("", MathContext.UNLIMITED);
            static final NumberForm LARGE_COUNT = new NumberForm("", SHORT);
            static final NumberForm PERCENT = new NumberForm(" %", SHORT);
            static final NumberForm SECONDS = new NumberForm(" s", SHORT);

            static NumberForm ofCost(String currency) {
                return new NumberForm(" " + currency, SHORT);
            }

            /// Returns a number such as `12`, `0.70 s` or `1,240 s`.
            String text(BigDecimal number) {
                var rounded = round(number);
                boolean isWhole = rounded.stripTrailingZeros().scale() <= 0;
                return String.format(Locale.ROOT, "%,." + (isWhole ? 0 : rounded.scale()) + "f", rounded) + unit;
            }

            BigDecimal round(BigDecimal number) {
                return number.round(digits);
            }
        }

        /// Lists the metrics of a side in the order of all views. The cost in each currency follows
        /// the tokens.
        enum Measure implements Named {
            ROWS("rows", 0, NumberForm.COUNT, side -> side.batch.index().size()),
            PERCENT_SUCCEEDED("with result", 1, NumberForm.PERCENT,
                    side -> 100.0 * side.batch.index().succeeded() / side.batch.index().size()),
            PERCENT_CORRECT("correct", 1, NumberForm.PERCENT, side -> 100.0 * side.correct() / side.judged()),
            SECONDS_P50("latency p50", 2, NumberForm.SECONDS, side -> side.seconds("p50")),
            SECONDS_P90("latency p90", 2, NumberForm.SECONDS, side -> side.seconds("p90")),
            TOKENS("tokens", 0, NumberForm.LARGE_COUNT, side -> side.batch.figures().spending.tokens()),
            RUNS_WITHOUT_PRICE("unpriced runs", 0, NumberForm.COUNT,
                    side -> side.batch.figures().spending.unpriced()),
            RETRIES("retries", 0, NumberForm.COUNT, side -> side.batch.figures().retries());

            private final String title;
            private final int digits; // after the point, in JSON
            final NumberForm form;
            private final ToDoubleFunction<Side> figure;

            Measure(String title, int digits, NumberForm form, ToDoubleFunction<Side> figure) {
                this.title = title;
                this.digits = digits;
                this.form = form;
                this.figure = figure;
            }

            Metric of(Side first, Side second) {
                return new Metric(key(), title, form, figure(first), figure(second));
            }

            /// Returns the figure of a side as it is in JSON, or null if it is unknown.
            private BigDecimal figure(Side side) {
                double number = figure.applyAsDouble(side);
                return Double.isNaN(number) ? null
                        : BigDecimal.valueOf(number).setScale(digits, RoundingMode.HALF_UP);
            }
        }

        /// Holds a metric of both sides by its key in JSON. A figure is null if it is unknown.
        record Metric(String key, String title, NumberForm form, BigDecimal first, BigDecimal second) {
            static Metric ofCost(String currency, BigDecimal first, BigDecimal second) {
                var name = Text.printable(currency, 8);
                return new Metric("cost_" + name.replace(' ', '_'), "cost", NumberForm.ofCost(name), first, second);
            }

            Metric withoutFirst() {
                return new Metric(key, title, form, null, second);
            }

            String text(BigDecimal figure) {
                return figure == null ? "–" : form.text(figure);
            }

            /// Returns the difference of the figures as they are shown, such as `+0.03 s
            /// (+12.5 %)`. A percentage changes by points, because a change in percent would be
            /// mistaken for them.
            String change() {
                if (first == null || second == null) return "";
                var shown = form.round(first);
                var difference = form.round(second).subtract(shown);
                if (difference.signum() == 0) return "";
                var sign = difference.signum() < 0 ? "-" : "+";
                var change = sign + form.text(difference.abs());
                if (form.equals(NumberForm.PERCENT)) return change.replace(" %", " points");
                if (shown.signum() == 0) return change;
                var share = difference.abs().movePointRight(2).divide(shown, MathContext.DECIMAL64);
                return change + " (" + sign + NumberForm.PERCENT.text(share.setScale(1, RoundingMode.HALF_UP)) + ")";
            }

            Map<String, Object> json() {
                var difference = first == null || second == null ? null : second.subtract(first);
                return object("first", first, "second", second, "difference", difference);
            }
        }

        /// @param batches two, or one that is only checked against expected values
        Comparison(List<Batch> batches, Scope scope, Expectations expected) {
            var one = batches.getFirst();
            var two = batches.getLast();
            first = new Side(name(one, two), one);
            second = one == two ? first : new Side(name(two, one), two);
            this.scope = scope;
            this.expected = expected;
        }

        /// Names a side after its file, with the folder if the other one's file has the same name.
        private static String name(Batch batch, Batch other) {
            var file = batch.files().results();
            var otherFile = other.files().results();
            boolean needsFolder = file.getFileName().equals(otherFile.getFileName()) && !file.equals(otherFile);
            var name = needsFolder ? file : file.getFileName();
            return Text.printable(name.toString().replaceFirst("\\.jsonl$", ""), 100);
        }

        /// Reads all rows once to count them.
        ///
        /// @param wanted the input with the expected values, or null
        void read(Path wanted) {
            sides().flatMap(Side::ids).forEach(rows::findOrAdd);
            recorded = rows.size();
            // "nothing differs" would pass for a good result, and a file without
            // rows could have no header
            if (recorded == 0) throw new Unusable("no row of these batches was ever sent", "run them first");
            // it belongs to another batch
            if (wanted != null && expected.ids().allMatch(id -> rows.find(id) < 0))
                throw new Unusable(wanted + ": no row has an expected value and a result",
                        "check that this is the right CSV");
            expected.ids().forEach(rows::findOrAdd);
            // counted from 0, because scripts rely on a key for every kind of row
            for (var match : Match.values()) matches.put(match, 0L);
            for (var grade : Grade.values()) grades.put(grade, 0L);
            for (int number = 0; number < rows.size(); number++) count(number, pair(number));
            // a failed row may lack the part, so this is an error only if a row
            // succeeded on both sides
            long both = matches.get(Match.SAME) + matches.get(Match.DIFFERENT);
            if (both > 0 && pointers.isEmpty() && !scope.part().isEmpty())
                throw new Unusable("--output " + Text.printable(scope.part(), 100)
                        + ": no row of any file has this part in its outputs");
            metrics = measure();
        }

        private boolean isOne() {
            return first == second;
        }

        private Stream<Side> sides() {
            return Stream.of(first, second).distinct();
        }

        private Pair pair(int number) {
            var id = rows.id(number);
            var one = first.result(id, expected);
            var two = isOne() ? one : second.result(id, expected);
            return new Pair(id, one, two, scope.differences(one, two));
        }

        private Grade grade(Pair pair) {
            if (!expected.isJudged(pair.id())) return Grade.NOT_JUDGED;
            if (!pair.second().isSuccess()) return Grade.NO_RESULT;
            if (!expected.isEmpty()) return pair.second().correct().orElseThrow() ? Grade.CORRECT : Grade.MISSED;
            return switch (pair.match()) {
                case SAME -> Grade.CORRECT;
                case DIFFERENT -> Grade.MISSED;
                case ONLY_FIRST, ONLY_SECOND, FAILED_FIRST, FAILED_SECOND, NEITHER -> Grade.NOT_JUDGED;
            };
        }

        private void count(int number, Pair pair) {
            matches.merge(pair.match(), 1L, Long::sum);
            var grade = grade(pair);
            grades.merge(grade, 1L, Long::sum);
            boolean isMissed = grade == Grade.MISSED || grade == Grade.NO_RESULT;
            // without expected values, a row is also missed if it failed on both
            // sides, which is no difference
            unequal.set(number, pair.match().isDifference() || !expected.isEmpty() && isMissed);
            if (pair.hasOtherInputs()) otherInputs++;
            pair.byOutput().keySet().forEach(output -> outputs.merge(output, 1L, Long::sum));
            if (!isOne()) pair.first().correct().ifPresent(first::countJudged);
            pair.second().correct().ifPresent(second::countJudged);
            for (var result : List.of(pair.first(), pair.second())) {
                inputNames.addAll(result.end().inputs().keySet());
                pointers.addAll(scope.pointers(result));
            }
            inputNames.remove("id"); // the id has a column of its own already
        }

        private List<Metric> measure() {
            var firstCosts = first.batch.figures().spending.prices();
            var secondCosts = second.batch.figures().spending.prices();
            var currencies = new TreeSet<>(firstCosts.keySet());
            currencies.addAll(secondCosts.keySet());
            var costs = currencies.stream().map(currency ->
                    Metric.ofCost(currency, firstCosts.get(currency), secondCosts.get(currency))).toList();
            var measures = EnumSet.allOf(Measure.class);
            if (expected.isEmpty()) measures.remove(Measure.PERCENT_CORRECT);
            if (costs.isEmpty()) measures.remove(Measure.RUNS_WITHOUT_PRICE);
            var all = new ArrayList<Metric>();
            for (var measure : measures) {
                all.add(measure.of(first, second));
                if (measure == Measure.TOKENS) all.addAll(costs);
            }
            if (isOne()) all.replaceAll(Metric::withoutFirst);
            return all;
        }

        /// Returns the last line, such as `Rows that differ: 3 of 5. With result: 60 % before, 60 %
        /// after.`
        private String summary() {
            if (isOne()) return "Correct: " + Text.number(second.correct()) + " of "
                    + Text.count(second.judged(), "judged row") + ".";
            if (!hasProblems()) return "Nothing differs.";
            long different = matches.keySet().stream().filter(Match::isDifference).mapToLong(matches::get).sum();
            var metric = metric(expected.isEmpty() ? Measure.PERCENT_SUCCEEDED : Measure.PERCENT_CORRECT);
            return "Rows that differ: " + Text.number(different) + " of " + Text.number(rows.size()) + ". "
                    + (expected.isEmpty() ? "With result: " : "Correct: ") + metric.text(metric.first()) + " "
                    + first.name + ", " + metric.text(metric.second()) + " " + second.name + ".";
        }

        private Metric metric(Measure measure) {
            return metrics.stream().filter(metric -> metric.key().equals(measure.key())).findFirst().orElseThrow();
        }

        boolean hasProblems() {
            return !unequal.isEmpty() || sides().anyMatch(side -> !side.batch.history().lost().isEmpty());
        }

        private List<String> notes() {
            var notes = new ArrayList<String>();
            if (!isOne() && matches.get(Match.ONLY_FIRST) + matches.get(Match.ONLY_SECOND) == recorded)
                notes.add("no id has a result on both sides");
            if (otherInputs > 0) notes.add(Text.count(otherInputs, "row was", "rows were")
                    + " run with other inputs");
            long absent = rows.size() - grades.get(Grade.NOT_JUDGED) - second.judged();
            if (!expected.isEmpty() && absent > 0) notes.add(Text.count(absent, "row with an expected value is",
                    "rows with an expected value are") + " not in " + second.name);
            return notes;
        }

        @Override
        public void close() {
            sides().forEach(Side::close);
        }

        /// Orders the cells of CSV, JSON and page.
        private Map<String, Object> cells(Pair pair, Map<String, Object> own) {
            var cells = object("id", pair.id(), "kind", pair.match().key(), "differs",
                    pair.differences().stream().map(JsonDiff.Difference::pointer).collect(joining(" ")));
            cells.putAll(own);
            cells.putAll(object("error_first", isOne() ? "" : pair.first().error(),
                    "error_second", pair.second().error()));
            if (!expected.isEmpty()) cells.putAll(object(
                    "correct_first", isOne() ? "" : pair.first().correct().map(String::valueOf).orElse(""),
                    "correct_second", pair.second().correct().map(String::valueOf).orElse(""),
                    "verdict", grade(pair).key(), "trend", pair.trend()));
            return cells;
        }

        /// Writes all rows. An input has one column for both files, because it is usually the same
        /// in them. The header is known with the first row, because every row has the same cells.
        void writeCsv(Spreadsheet file, OutputStream out) throws IOException {
            for (int number = 0; number < rows.size(); number++) {
                var pair = pair(number);
                Result one = pair.first(), two = pair.second();
                var own = object();
                var inputs = one.end().inputs().isEmpty() ? two.end().inputs() : one.end().inputs();
                inputNames.forEach(name -> own.put("input." + name, Spreadsheet.cell(inputs.get(name))));
                for (var pointer : pointers) {
                    if (!isOne()) own.put("first" + pointer, Spreadsheet.cell(one.at(pointer)));
                    own.put((isOne() ? "results" : "second") + pointer, Spreadsheet.cell(two.at(pointer)));
                }
                var wanted = expected.cells(pair.id());
                expected.rules().forEach(rule -> own.put("expected." + rule.column(), wanted.getOrDefault(rule, "")));
                var cells = cells(pair, own);
                if (number == 0) file.open(out, cells.keySet());
                file.write(cells.values().stream().map(Object::toString).toList(), new BitSet());
            }
            file.finish();
        }

        /// Writes a JUnit report about the second side, as Surefire's schema describes it. The
        /// suite is the root element, a form that all programs that read such reports accept.
        void writeJUnit(OutputStream file) throws IOException {
            var out = new BufferedWriter(Json.utf8(file));
            var suite = StatusView.title(second.batch);
            out.write("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n" + JUNIT_MARK + VERSION + " -->\n");
            out.write(tag("testsuite", object("name", suite, "tests", rows.size(),
                    "failures", grades.get(Grade.MISSED), "errors", grades.get(Grade.NO_RESULT),
                    "skipped", grades.get(Grade.NOT_JUDGED))) + "\n");
            for (int number = 0; number < rows.size(); number++) {
                var pair = pair(number);
                var found = switch (grade(pair)) {
                    case CORRECT -> "";
                    case MISSED -> problem("failure", Grade.MISSED, misses(pair, Integer.MAX_VALUE));
                    case NO_RESULT -> problem("error", Grade.NO_RESULT, List.of(pair.second().error()));
                    case NOT_JUDGED -> "<skipped/>";
                };
                out.write(tag("testcase", object("name", pair.id(), "classname", suite,
                        "time", pair.second().seconds())) + found + "</testcase>\n");
            }
            out.write("</testsuite>\n");
            out.flush();
        }

        private static String problem(String name, Grade grade, List<String> lines) {
            var text = String.join("\n", lines);
            return tag(name, object("type", grade.key(), "message", Text.cut(text.replace('\n', ' '), LONGEST)))
                    + xml(text) + "</" + name + ">";
        }

        private static String tag(String name, Map<String, Object> attributes) {
            return attributes.entrySet().stream().map(one -> " " + one.getKey() + "=\"" + xml(one.getValue()) + '"')
                    .collect(joining("", "<" + name, ">"));
        }

        private static String xml(Object value) { // XML 1.0 has no escape for control characters
            return StringEscapeUtils.escapeXml10(Spreadsheet.withoutControls(value.toString()));
        }

        /// Returns a line for each expected value that the second side misses, or for each
        /// difference if nothing is expected.
        ///
        /// @param longest the characters of each value
        private List<String> misses(Pair pair, int longest) {
            if (!expected.isEmpty()) return expected.misses(pair.id(), pair.second().end(), longest);
            return pair.differences().stream().map(difference -> difference.pointer() + ": " + first.name + " "
                    + JsonDiff.quoted(difference.first(), longest) + ", " + second.name + " "
                    + JsonDiff.quoted(difference.second(), longest)).toList();
        }

        void writePage(OutputStream out) throws IOException {
            var names = sides().map(side -> side.name).toList();
            var totals = new LinkedHashMap<String, Long>();
            var looks = new LinkedHashMap<String, String>(); // by word, because it may contain a file's name
            if (expected.isEmpty()) matches.forEach((match, rows) -> {
                totals.put(words(match), rows);
                looks.put(words(match), match.word());
            });
            else grades.forEach((grade, rows) -> totals.put(grade.word(), rows));
            WebPage.write(out, object("title", (isOne() ? "Check: " : "Comparison: ") + String.join(" and ", names),
                    "file", String.join(" and ", names).replace('/', '-'),
                    "about", sides().map(side -> StatusView.headline(side.batch, Ansi.OFF)).toList(),
                    "summary", summary(), "sides", names,
                    "judged", !expected.isEmpty(), "bar", barTitle(), "totals", totals, "looks", looks,
                    "comparison", metrics.stream().map(this::texts).toList(), "notes", notes()),
                    rows.size(), number -> row(pair(number)));
        }

        /// Returns a row of the page. It contains the changes if the sides differ, and otherwise
        /// the outputs of the first result that has any.
        private Map<String, Object> row(Pair pair) {
            Result one = pair.first(), two = pair.second();
            var end = one.end().outputs().isEmpty() ? two.end() : one.end();
            var changes = pair.byOutput().keySet().stream().map(output -> object("name", output,
                    "change", JsonDiff.Change.of(JsonDiff.readable(one.at(output)),
                            JsonDiff.readable(two.at(output)))));
            return WebPage.prune(cells(pair, object("outcome", outcome(pair), "trend", pair.trend(),
                    "changes", changes.toList(), "expected", expected.checks(pair),
                    "seconds", one.seconds(), "second_seconds", two.seconds(),
                    "run", one.end().run(), "second_run", two.end().run(), "inputs", WebPage.values(end.inputs()),
                    "outputs", pair.byOutput().isEmpty() ? WebPage.values(end.outputs()) : Map.of())));
        }

        private String outcome(Pair pair) {
            return expected.isEmpty() ? words(pair.match()) : grade(pair).word();
        }

        private String words(Match match) {
            return match.words(first.name, second.name);
        }

        /// Names the side whose grades a bar shows. A bar of matches is about both sides.
        private String barTitle() {
            return expected.isEmpty() ? "" : second.name + ", by expected value";
        }

        private List<String> texts(Metric metric) {
            var last = metric.text(metric.second());
            return isOne() ? List.of(metric.title(), last)
                    : List.of(metric.title(), metric.text(metric.first()), last, metric.change());
        }

        /// Prints kinds of rows, metrics, outputs and the rows that differ. The summary comes last,
        /// where a long list cannot push it off the screen.
        void print(PrintWriter out, Ansi paint, boolean all) {
            sides().forEach(side -> out.println(StatusView.headline(side.batch, paint)));
            int wide = matches.keySet().stream().map(this::words).mapToInt(String::length).max().orElse(0);
            if (!isOne()) out.println();
            if (!isOne()) StatusView.bars(matches, wide, this::words, (_, text) -> text).forEach(out::println);
            if (!expected.isEmpty()) {
                out.println("\n  " + paint.faint(barTitle()));
                StatusView.bars(grades, wide, Grade::word, (_, text) -> text).forEach(out::println);
            }
            out.println();
            if (!isOne()) printMetric(List.of("", first.name, second.name, "difference"), out, paint);
            metrics.forEach(metric -> printMetric(texts(metric), out, paint));
            if (!outputs.isEmpty()) out.println();
            outputs.forEach((output, rows) -> out.println("  "
                    + paint.faint("%-24s".formatted("differ in " + Text.printable(output, 200)))
                    + "%12s".formatted(Text.count(rows, "row"))));
            for (var note : notes()) out.println("\n  Note: " + note);
            int[] rows = unequal.stream().limit(all ? Long.MAX_VALUE : MAX_ROWS).toArray();
            for (int number : rows) print(pair(number), out, paint);
            int more = unequal.cardinality() - rows.length;
            if (more > 0) out.println("\n  … and " + Text.count(more, "more row") + " (--all)");
            out.println("\n" + Screen.wrap(1, summary(), 0));
            out.flush();
        }

        private void printMetric(List<String> texts, PrintWriter out, Ansi paint) {
            int wide = Math.max(12, sides().mapToInt(side -> side.name.length()).max().orElse(0));
            var column = " %" + wide + "s";
            var format = "  %s" + (isOne() ? column : column.repeat(2) + "   %s");
            var cells = new ArrayList<Object>(texts);
            cells.set(0, paint.faint("%-18s".formatted(texts.getFirst())));
            out.println(format.formatted(cells.toArray()).stripTrailing());
        }

        private void print(Pair pair, PrintWriter out, Ansi paint) {
            var words = new ArrayList<>(List.of(outcome(pair)));
            if (!isOne() && !expected.isEmpty()) words.addAll(List.of(words(pair.match()), pair.trend()));
            var errors = Stream.of(pair.first(), pair.second()).map(Result::error).distinct();
            out.println("\n  " + paint.bold(Text.id(pair.id())) + "  "
                    + words.stream().filter(word -> !word.isEmpty()).collect(joining(", "))
                    + errors.filter(error -> !error.isEmpty()).map(error -> ": " + Text.printable(error, LONGEST))
                            .collect(joining()));
            if (!expected.isEmpty() && grade(pair) == Grade.MISSED)
                misses(pair, LONGEST).forEach(miss -> out.println("    " + Text.printable(miss, 3 * LONGEST)));
            // printed as `the [-red-]{+blue+} one`, like git's word diff
            for (var difference : pair.differences()) {
                var change = scope.diff().change(difference);
                var removed = Text.printable(change.first(), LONGEST);
                var added = Text.printable(change.second(), LONGEST);
                out.println("    " + paint.faint(Text.printable(difference.pointer(), LONGEST)) + "  "
                        + Text.printable(change.before(), LONGEST)
                        + (removed.isEmpty() ? "" : paint.by(RowStatus.FAILED, "[-" + removed + "-]"))
                        + (added.isEmpty() ? "" : paint.by(RowStatus.SUCCEEDED, "{+" + added + "+}"))
                        + Text.printable(change.after(), LONGEST));
            }
        }

        /// Writes JSON. `docs/compare.md` documents keys and order. Rows are written one by one to
        /// save memory, so the closing bracket of the head is cut off and follows the last row.
        void printJson(PrintWriter out) {
            var head = object();
            if (!isOne()) matches.forEach((match, rows) -> head.put(match.key(), rows));
            var named = object();
            metrics.forEach(metric -> named.put(metric.key(), metric.json()));
            head.putAll(object("inputs_differ", otherInputs, "outputs", outputs, "figures", named));
            if (!expected.isEmpty()) {
                var expectation = metric(Measure.PERCENT_CORRECT).json();
                grades.forEach((grade, rows) -> expectation.put(grade.key(), rows));
                head.put("expected", expectation);
            }
            var text = Json.text(head);
            out.print(text.substring(0, text.length() - 1) + ",\"rows\":[");
            int[] rows = unequal.stream().toArray();
            for (int i = 0; i < rows.length; i++) out.print((i > 0 ? "," : "") + Json.text(json(pair(rows[i]))));
            out.println("]}");
            out.flush();
        }

        /// Returns a row of `--json`. A value that is missing on one side has no key, unlike a
        /// `null` in the outputs.
        private Map<String, Object> json(Pair pair) {
            var json = cells(pair, object("differences",
                    pair.differences().stream().map(difference -> WebPage.prune(object("pointer", difference.pointer(),
                            "first", difference.first().isMissingNode() ? null : difference.first(),
                            "second", difference.second().isMissingNode() ? null : difference.second()))).toList(),
                    "inputs_differ", pair.hasOtherInputs()));
            json.remove("differs"); // the differences have the pointers, too
            if (!expected.isEmpty()) json.put("expected", expected.checks(pair));
            return WebPage.prune(json);
        }
    }

    /// Holds the cells of the input that outputs are checked against. Without rules,
    /// every success is as expected.
    ///
    /// @param cells by row, the cells that are not blank
    record Expectations(List<Rule> rules, Index index, List<Map<Rule, String>> cells, boolean hasDecimalComma,
            JsonDiff diff, BigDecimal tolerance) {
        record Rule(String column, JsonPointer output) {
            private static final Pattern FORM = Pattern.compile("(.+?)=(/.*)", Pattern.DOTALL);

            static Rule of(String typed, Csv csv) {
                var option = "--expect " + Text.shell(typed);
                var match = FORM.matcher(typed);
                if (!match.matches() || !JsonDiff.POINTER.matcher(match.group(2)).matches())
                    throw new Unusable(option + ": must be COLUMN=/POINTER", "such as answer_expected=/answer");
                // people know a column by its title, but a row has the name that
                // --map may have given to it
                var column = csv.inputs().stream().filter(input -> input.title().equals(match.group(1))).findFirst()
                        .orElseThrow(() -> new Unusable(csv.file().unusable(csv.header().line(), option
                                + ": no column " + Text.quoted(match.group(1))).what(), csv.header().hint()));
                return new Rule(column.name(), JsonPointer.compile(match.group(2)));
            }

            static Map<Rule, String> cells(List<Rule> rules, Row row) {
                var cells = new LinkedHashMap<Rule, String>();
                for (var rule : rules) cells.put(rule, row.inputs().get(rule.column()));
                cells.values().removeIf(String::isBlank);
                return cells;
            }
        }

        /// Holds a rule that applies to a row, its expected value, and what its output contains on
        /// each side.
        record Check(String column, String output, String value, String first, String second) {}

        /// @param csv null if nothing is expected
        static Expectations of(Csv csv, List<String> typed, JsonDiff diff, BigDecimal tolerance) {
            var rules = typed.stream().map(rule -> Rule.of(rule, csv)).toList();
            var cells = new ArrayList<Map<Rule, String>>();
            var index = csv == null ? new Index() : Index.of(csv, row -> cells.add(Rule.cells(rules, row)));
            // `decimal` is null unless it was chosen
            boolean hasDecimalComma = csv != null && Character.valueOf(',').equals(csv.shape().decimal());
            return new Expectations(rules, index, cells, hasDecimalComma, diff, tolerance);
        }

        boolean isEmpty() {
            return rules.isEmpty();
        }

        Stream<String> ids() {
            return IntStream.range(0, index.size()).mapToObj(index::id).filter(id -> !cells(id).isEmpty());
        }

        Map<Rule, String> cells(String id) {
            int entry = index.find(id);
            return entry < 0 ? Map.of() : cells.get(entry);
        }

        /// Returns whether a row has an expected value. Without rules, every row is judged by its
        /// success.
        boolean isJudged(String id) {
            return isEmpty() || !cells(id).isEmpty();
        }

        boolean isMet(String id, ResultLine end) {
            return cells(id).entrySet().stream().allMatch(cell ->
                    isMet(cell.getValue(), end.at(cell.getKey().output())));
        }

        /// Compares an output with a cell. A cell is text, so it is read as JSON if the output is
        /// not text. A tolerance also applies to text, because an answer may consist of a number.
        private boolean isMet(String cell, JsonNode output) {
            if (output.isMissingNode()) return false;
            var number = hasDecimalComma && output.isNumber() ? Variable.withPoint(cell) : cell;
            var wanted = output.isTextual() ? TextNode.valueOf(cell) : Json.parse(number);
            return diff.of("", wanted, output).isEmpty()
                    || tolerance != null && isNear(number, ResultLine.text(output));
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

        /// Returns a line for each rule that a success misses, such as `/answer: expected "yes",
        /// found "no"`.
        List<String> misses(String id, ResultLine end, int longest) {
            return cells(id).entrySet().stream()
                    .filter(cell -> !isMet(cell.getValue(), end.at(cell.getKey().output())))
                    .map(cell -> cell.getKey().output() + ": expected "
                            + JsonDiff.quoted(TextNode.valueOf(cell.getValue()), longest) + ", found "
                            + JsonDiff.quoted(end.at(cell.getKey().output()), longest)).toList();
        }

        List<Check> checks(Comparison.Pair pair) {
            return cells(pair.id()).entrySet().stream().map(cell -> new Check(cell.getKey().column(),
                    cell.getKey().output().toString(), cell.getValue(), found(cell.getKey(), pair.first()),
                    found(cell.getKey(), pair.second()))).toList();
        }

        private static String found(Rule rule, Comparison.Result result) {
            var value = result.end().at(rule.output());
            if (!result.isSuccess()) return "";
            return value.isMissingNode() ? "–" : ResultLine.text(value);
        }
    }

    record JsonDiff(boolean trim) {
        static final Pattern POINTER = Pattern.compile("(/([^/~]|~[01])*)*"); // as in RFC 6901
        /// `MAX_DIFFERENCES` limits the differences of one output, because two long arrays may
        /// differ in every element. `CONTEXT` is in words beside a change, one or two lines of a
        /// terminal. `LONGEST` is in characters of an output on a page, so that a page with some
        /// huge outputs still opens.
        private static final int MAX_DIFFERENCES = 100, CONTEXT = 20, LONGEST = 100_000;
        /// Matches a word with the space after it. In scripts without spaces, each
        /// character is a word.
        private static final Pattern WORD = Pattern.compile(
                "(?:[\\p{L}\\p{M}\\p{N}_&&[^\\p{IsIdeographic}\\p{IsHiragana}\\p{IsKatakana}]]+|\\S)\\s*+|\\s+");

        /// Holds two values that differ at a pointer. One of them may be a missing node.
        record Difference(String pointer, JsonNode first, JsonNode second) {}

        /// Holds the words that two texts share at the beginning and the end, and the part of each
        /// text in between. One change per text is easy to read and fast to find, unlike a complete
        /// diff.
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

            private static int alike(List<String> first, List<String> second) {
                int many = 0;
                while (many < Math.min(first.size(), second.size()) && first.get(many).equals(second.get(many))) many++;
                return many;
            }
        }

        /// Finds the differences below a pointer. Numbers are compared by value, objects regardless
        /// of the order of keys, and arrays by index. `path` returns a missing node for a value
        /// that only the other side has.
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
            // numbers are read as decimals, and a double is only NaN or infinite,
            // which has no decimal value
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

        Change change(Difference difference) {
            JsonNode first = difference.first(), second = difference.second();
            boolean areTexts = first.isTextual() && second.isTextual();
            return areTexts ? Change.of(text(first), text(second)).shortened()
                    : new Change("", first.toString(), second.toString(), "");
        }

        /// Returns a value as JSON, so that a text has quotes.
        static String quoted(JsonNode value, int longest) {
            return value.isMissingNode() ? "nothing" : Text.printable(value.toString(), longest);
        }

        static String readable(JsonNode value) {
            if (value.isMissingNode()) return "";
            return Text.cut(value.isTextual() ? value.textValue() : value.toPrettyString(), LONGEST);
        }
    }

    /// Colours text for a terminal. If it is off, text stays as it is. The codes are ANSI's: 1 is
    /// bold, 2 faint, 31 red, 32 green, 33 yellow and 36 cyan.
    record Ansi(boolean on) {
        static final Ansi OFF = new Ansi(false);

        /// Uses colours only if standard output is an interactive terminal, so that a file contains
        /// no codes. Every start asks for this, and [Screen] would take 0.2 s to load.
        static Ansi of(Env env) {
            var console = System.console();
            boolean isOn = isWanted(env) && console != null && console.isTerminal();
            return new Ansi(isOn && (Platform.HERE == Platform.UNIX || Screen.withEscapeCodes(1).isPresent()));
        }

        static Ansi ofErr(Env env) {
            return new Ansi(isWanted(env) && Screen.withEscapeCodes(2).isPresent());
        }

        /// Returns whether the user wants colours. By convention, any `NO_COLOR` turns them off,
        /// and a terminal that calls itself `dumb` has none.
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

    // ── Engine ───────────────────────────────────────────────────────────────

    /// Runs the rows of an agenda to their outcomes. Only the calling thread changes
    /// state, so nothing is locked.
    static final class Engine {
        /// After the grace period, Dify is asked to stop the running rows. This limits how long the
        /// session then waits for their outcomes. Dify reports a stopped run within about 0.3 s
        /// (`stop_race.json`); the rest is a margin for a slow server.
        private static final Duration STOP_TIMEOUT = Duration.ofSeconds(3);
        /// Limits that wait, and the wait for the disk, after a second signal, because the user
        /// then does not want to wait.
        private static final Duration SECOND_STOP_TIMEOUT = Duration.ofMillis(1500);
        /// Limits the wait for running rows after Dify rejected the key. Users are promised an end
        /// within ten seconds (docs/pace.md), and the last writes need some of them.
        private static final Duration REJECTED_KEY_TIMEOUT = Duration.ofSeconds(7);
        /// Sets how often a slow disk is checked for. It must be well below [#SECOND_STOP_TIMEOUT],
        /// to which it adds.
        private static final Duration DISK_CHECK_INTERVAL = Duration.ofMillis(100);
        private final Terms terms;
        private final Agenda agenda;
        private final LookUpRules lookUpRules;
        private final Pace pace;
        private final Gate gate;
        private final Health health;
        private final BatchWriter writer;
        final Tally tally;
        private final Watcher watcher;
        private final Ports ports;
        private final InstantSource clock;
        private final AtomicInteger interrupts = new AtomicInteger(); // any thread may add one, see [#interrupt]
        private final Map<Long, InFlight> inFlight = new LinkedHashMap<>();
        private final int looksAtOnce;
        private final boolean mayRepeat; // whether the user asked for rows that have succeeded
        private int looking = 0, probing = 0; // look-ups and probes without a response so far
        /// Hold what waits until the log, or the log and the results, are on disk: requests to
        /// send, and outcomes to show.
        private final List<Runnable> requests = new ArrayList<>(), outcomes = new ArrayList<>();
        /// Holds when a stopped session no longer waits for running rows, after a signal or a
        /// rejected key. A limit lets all of them finish (docs/settings.md).
        private Instant hardStop = Instant.MAX;
        /// Holds when the loop last ran.
        private Instant lastTurn = Instant.MIN;
        /// Each becomes true when a notice or request that must not be repeated was sent.
        private boolean taskStopsSent = false, linksNoted = false, damageNoted = false, pricesNoted = false,
                tokensNoted = false;
        private String version, lastPause = ""; // the workflow version of the last run, and the last pause reported
        private boolean hasStartedRuns = false; // also true if a run may have started

        record Terms(Judge judge, Limits limits, Pace pace, Gate gate, ModePolicy modes, Attempt.UserNames names) {}

        /// Connects an engine to the outside world, which tests can replace. Workers and signals
        /// put messages into the mailbox, and the engine's thread takes them out.
        ///
        /// @param halt ends the process at once
        record Ports(Workflow workflow, Watcher watcher, InstantSource clock, BlockingQueue<Runnable> mailbox,
                Executor workers, Runnable halt) {
            /// Creates the ports of a real process. A virtual thread for each request costs little
            /// while it waits.
            static Ports ofProcess(Workflow workflow, Watcher watcher) {
                var clock = Times.neverBack(InstantSource.system(), System::nanoTime, Times::uptime);
                return new Ports(workflow, watcher, clock, new LinkedBlockingQueue<>(), Thread::startVirtualThread,
                        () -> Runtime.getRuntime().halt(Exit.INTERRUPTED.code));
            }
        }

        /// Continues with what the batch's history contains: figures, the newest stream that had
        /// started and the last version of the workflow.
        Engine(Batch.Wanted wanted, Terms terms, BatchWriter writer, Ports ports) {
            this.ports = ports;
            this.watcher = ports.watcher();
            this.clock = ports.clock();
            this.terms = terms;
            this.agenda = new Agenda(wanted, terms.modes().app.firstLook(), clock.instant(), terms.limits().timeout());
            this.lookUpRules = new LookUpRules(terms.judge(), terms.limits(),
                    wanted.asked().has(Choice.RESEND_UNKNOWN), wanted.asked().has(Choice.RERUN_CHANGED));
            this.mayRepeat = wanted.asked().has(Choice.AGAIN) || wanted.asked().has(Choice.RERUN_CHANGED);
            this.pace = terms.pace();
            this.gate = terms.gate();
            this.health = new Health(terms.judge().backoff(), gate);
            this.writer = writer;
            this.tally = new Tally(wanted, pace, clock);
            writer.batch().history().count(tally); // adds it, so that it counts all later lines
            // each look-up needs one of the server's connections, and most of them are for new
            // rows; with at least two look-ups, a slow one does not hold up all others
            this.looksAtOnce = Math.max(2, pace.ceiling / 4);
            var versions = writer.batch().index().versions();
            this.version = versions.isEmpty() ? "" : versions.getLast();
        }

        /// Holds an attempt in flight. Its worker sets the volatile fields, and the
        /// engine's thread the others.
        private static final class InFlight {
            final Attempt attempt;
            volatile Thread thread; // to interrupt; null until the worker starts
            volatile Instant lastEvent; // of a stream
            Instant start; // TIMEOUT counts from the request, then from a stream's first event
            Instant lastLook = Instant.MIN;
            Optional<RunRef> run = Optional.empty();
            /// `isStreaming` is true from a stream's first event on, but not while files are
            /// downloaded, because their silence is not a lost worker's. `isIdle` is true if it was
            /// silent after that. `lookedUp` is true while the stream's run is looked up, so that
            /// there is one look-up at a time.
            boolean isStreaming, isIdle, lookedUp;
            String stopAsked = ""; // why Dify was asked to stop the run, as in a StopEvent, or empty

            InFlight(Attempt attempt) {
                this.attempt = attempt;
                this.start = attempt.at();
            }

            /// Returns whether the request of a stream was sent at least `QUIET` ago
            /// and no event has arrived since.
            boolean isSilent(Instant now) {
                return attempt.mode() == Mode.STREAMING && run.isEmpty() && !now.isBefore(start.plus(Transport.QUIET));
            }
        }

        /// Stops the session. May be called from any thread.
        void interrupt(String signal) {
            interrupts.incrementAndGet(); // visible to other threads even while the engine's waits for the disk
            ports.mailbox().add(() -> onInterrupt(signal));
        }

        /// Runs with Ctrl-C, SIGTERM and SIGHUP as interrupts, and completes the files whatever
        /// stopped the run.
        Optional<Stop> runUntilWritten() throws InterruptedException {
            var former = new LinkedHashMap<String, Object>(); // the shell needs its own handlers back
            for (var name : List.of("INT", "TERM", "HUP"))
                former.put(name, Signals.register(name, () -> interrupt(name)));
            var disk = Thread.startVirtualThread(this::watchDisk);
            try {
                return Stop.all(run(), writer.finish(watcher::say));
            } finally {
                disk.interrupt();
                former.forEach(Signals::unregister);
            }
        }

        /// Watches for a slow disk on a thread of its own. The engine's thread waits for the disk,
        /// so it can neither report that nor obey a second signal.
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

        /// Returns why the batch stopped early, or empty if every row has its
        /// outcome. The order of the steps keeps the promises: results and log lines
        /// are written before they count, attempts and stops are on disk before they are sent,
        /// and outcomes are on disk before they are shown.
        Optional<Stop> run() throws InterruptedException {
            var failure = Optional.<Stop>empty();
            try {
                writer.write(); // so that the history knows what this session requires
                terms.limits().unpricedNote(writer.batch().figures().spending).ifPresent(watcher::say);
                checkLimits(); // earlier sessions may have used them up
                while (true) {
                    beforeEnd();
                    if (isOver()) break;
                    startDue();
                    writer.commit(clock.instant(), watcher::say); // writes the requests and the last outcomes to disk
                    Invariant.hold(requests.isEmpty() || writer.isOnDisk(), "a request was not on disk yet");
                    runAll(requests);
                    writer.awaitResults();
                    runAll(outcomes);
                    tally.tick(clock.instant(), new Tally.Activity(inFlight.size(), agenda.waiting(),
                            agenda.lookUps() + looking + silentStreams(clock.instant()), pauseNote(clock.instant())));
                    watcher.watch(tally);
                    var message = ports.mailbox().poll(timeUntilNext().toNanos(), NANOSECONDS);
                    // all messages that wait share one write to disk, which takes
                    // far longer than they do
                    for (; message != null; message = ports.mailbox().poll()) message.run();
                    writer.write();
                    checkLimits();
                    notePrices();
                    // does not stop while a request may still get a response
                    health.verdict(clock.instant(), inFlight.size() + looking + probing).ifPresent(agenda::stopWith);
                }
                writer.recordStop(clock.instant(), agenda.stopReason());
                runAll(outcomes);
            } catch (UncheckedIOException problem) { // without the results or the log, nothing can be recorded
                failure = Optional.of(writer.unwritable(problem.getCause()));
                agenda.stopWith(failure.get());
            }
            watcher.end();
            // if Dify refuses a setting only after runs have started, the command
            // was usable, so the exit code is 4
            var reason = agenda.stopReason().map(stop -> hasStartedRuns && stop.exit() == Exit.UNUSABLE
                    ? Stop.early(stop.what(), stop.hint()) : stop);
            return Stop.all(reason, failure);
        }

        private static void runAll(List<Runnable> actions) {
            actions.forEach(Runnable::run);
            actions.clear();
        }

        /// Looks once more for runs that counted as not started, when all rows have ended. After a
        /// stop and the grace period, asks Dify to stop the runs that are still active.
        private void beforeEnd() {
            var now = clock.instant();
            // rules compare times before a row is sent again
            Invariant.hold(!now.isBefore(lastTurn), "the session's clock ran backwards");
            lastTurn = now;
            // at the end of its time, any other stream is closed by its worker
            for (var sent : inFlight.values())
                if (mustStayOpen(sent) && !now.isBefore(sent.start.plus(terms.limits().timeout())))
                    stopTask(sent, StopEvent.TIMED_OUT);
            if (agenda.stopReason().isPresent()) {
                if (!inFlight.isEmpty() && !taskStopsSent && !hardStop.isAfter(now)) stopTasks(STOP_TIMEOUT);
            } else if (inFlight.isEmpty() && looking == 0) agenda.lookForLate(now);
        }

        /// Returns whether the session may end. After a stop, it waits for running rows until
        /// `hardStop`, and longer if Dify was then asked to stop them. It does not wait for
        /// look-ups, because the next session can repeat them.
        private boolean isOver() {
            if (agenda.stopReason().isEmpty()) return inFlight.isEmpty() && looking == 0 && agenda.isDone();
            return inFlight.isEmpty() || taskStopsSent && !hardStop.isAfter(clock.instant());
        }

        /// Adds every attempt that may start to the log. It is sent when it is on disk, because
        /// after a crash an attempt that the log lacks would be sent and paid for again. Look-ups
        /// and probes cost nothing.
        private void startDue() {
            var now = clock.instant();
            if (agenda.stopReason().isPresent()) return;
            // what the batch has spent is known only when runs of earlier sessions were looked up
            gate.close(Gate.Reason.UNCOUNTED, terms.limits().isOnSpending() && agenda.hasUncounted() ? Instant.MAX
                    : Instant.MIN);
            while (!gate.rowsFrom().isAfter(now) && hasRoom(now)) {
                var due = agenda.next(now);
                if (due.isEmpty()) break;
                var row = due.get().row();
                Invariant.hold(mayRepeat || !writer.status(row).isSuccess(), "a row that succeeded was not left out");
                Invariant.hold(inFlight.values().stream().noneMatch(sent -> sent.attempt.row().index() == row.index()),
                        "a row had two requests at a time");
                var user = terms.names().next();
                // each attempt has its own user name, so the number of names is also its sequence
                // number
                var attempt = new Attempt(terms.names().count(), row, due.get().tries(), user,
                        terms.modes().mode(), row.hash(), now, row.isEdited());
                var sent = new InFlight(attempt);
                inFlight.put(attempt.sequence(), sent);
                Invariant.hold(busySlots(now) <= pace.ceiling && inFlight.size() <= 2 * pace.ceiling,
                        "more requests were active than -c allows");
                gate.noteStart(now);
                writer.record(AttemptEvent.of(attempt, writer.resultsBytesOnDisk()));
                requests.add(() -> send(sent));
            }
            lookUpSilent(now);
            while (looking < looksAtOnce && !nextLook().isAfter(now)) {
                var lookUp = agenda.takeLookUp();
                var question = lookUp.question(now, terms.limits().timeout());
                Invariant.hold(question.attempt().equals(lookUp.attempt), "a look-up was of another attempt");
                look(question, found -> onLookUpResult(lookUp, found));
            }
            // one probe at a time is enough to see that the server is back
            if (probing == 0 && !health.nextProbe().isAfter(now)) probe(now);
        }

        /// Returns whether a slot is free. Unresolved runs keep their slots until
        /// the server responds.
        private boolean hasRoom(Instant now) {
            // streams that send only pings give up slots but stay open, so they need
            // a limit of their own
            return busySlots(now) + health.doubts() < pace.slots() && inFlight.size() < 2 * pace.ceiling;
        }

        /// Looks up streams that have been silent for a while. A stream without a first event may
        /// wait in the server's queue, but its run may also have ended unseen, as after a restart
        /// of Redis (Dify 1.16.1). The stream stays open meanwhile.
        private void lookUpSilent(Instant now) {
            if (terms.modes().app == AppKind.COMPLETION) return; // nothing can be asked
            for (var sent : inFlight.values()) {
                if (looking >= looksAtOnce || gate.lookUpsFrom().isAfter(now)) return;
                boolean isSilent = sent.isIdle || sent.isSilent(now);
                if (sent.lookedUp || !isSilent || now.isBefore(sent.lastLook.plus(Transport.QUIET))) continue;
                sent.lookedUp = true;
                look(new Question(sent.attempt, Purpose.QUIET, Symptom.STREAM_SILENT, sent.run, false),
                        found -> endSilence(sent, found));
            }
        }

        private int silentStreams(Instant now) {
            return (int) inFlight.values().stream().filter(sent -> sent.isSilent(now)).count();
        }

        /// Asks the server for something that starts nothing. A row that was sent instead would
        /// become unresolved if no response came.
        private void probe(Instant now) {
            probing++;
            work(() -> {
                var failure = ports.workflow().probe();
                return () -> onProbed(failure, now);
            });
        }

        private void onProbed(Optional<Response> failure, Instant at) {
            probing--;
            // a refusal is a response, too, unless it may pass, such as a proxy's 502
            if (failure.map(LookUpResult.Inconclusive::new).map(LookUpResult.Inconclusive::isAnswer).orElse(true))
                health.noteResponse(at);
            else health.noteFailure(clock.instant(), at);
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
            // the engine's thread may be waiting for the disk, and then sees a
            // signal later than this thread
            if (agenda.stopReason().isPresent() || interrupts.get() > 0)
                return new Response.NotSent("not sent: the batch was stopping", ""); // a hint would stop the batch
            sent.thread = Thread.currentThread();
            return ports.workflow().run(sent.attempt, heard -> {
                if (!(heard instanceof StreamEvent.Idle)) sent.lastEvent = clock.instant(); // Idle reports silence
                // only a live view gets the texts, because the mailbox could not
                // hold the texts of all rows
                if (watcher.isLive() || !(heard instanceof StreamEvent.Live || heard instanceof StreamEvent.OtherEvent))
                    ports.mailbox().add(() -> onStreamEvent(sent, heard));
            });
        }

        /// Looks a run up, and notes what the result shows about the server. A request to stop the
        /// run is on disk before it is sent.
        private void look(Question question, Consumer<LookUpResult> then) {
            var attempt = question.attempt();
            var asked = clock.instant();
            looking++;
            Runnable ask = () -> work(() -> {
                var found = ports.workflow().look(question);
                return () -> {
                    looking--;
                    var now = clock.instant();
                    if (found instanceof LookUpResult.Inconclusive unclear && !unclear.isAnswer())
                        health.noteFailure(now, asked);
                    else if (!(found instanceof LookUpResult.Unlisted)) health.noteResponse(asked);
                    writer.record(new LookEvent(now, attempt.row().id(), attempt.user(),
                            found.run().or(question::run).map(RunRef::id).orElse(""), found.word()));
                    then.accept(found);
                    // last, because the first reason to stop is the one that counts
                    if (found instanceof LookUpResult.Inconclusive(var response, _)) obeyPause(response, now);
                };
            });
            if (question.stopsFirst()) // then its task is known
                requestStop(question.run().orElseThrow(), attempt.user(), StopEvent.TIMED_OUT, ask);
            else ask.run();
        }

        /// Logs a request to stop a run, so that a later session sends the row again instead of
        /// taking the stop for the row's failure.
        private void requestStop(RunRef run, String user, String why, Runnable request) {
            writer.record(new StopEvent(clock.instant(), why, user, run.task(), writer.resultsBytesOnDisk()));
            requests.add(request);
        }

        /// Runs `work` on a worker thread, and the action that it returns on the engine's thread.
        /// An error of the worker is thrown on the engine's thread, because the session would wait
        /// for a lost message forever.
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

        private Duration timeUntilNext() {
            var now = clock.instant();
            var times = new ArrayList<Instant>();
            times.add(now.plusMillis(200)); // five updates of the progress line a second are enough to look live
            if (agenda.stopReason().isPresent()) times.add(hardStop);
            else {
                times.add(nextStart(now));
                // if all slots for look-ups or probes are in use, the one that
                // finishes posts a message
                if (looking < looksAtOnce) times.add(nextLook());
                if (probing == 0) times.add(health.nextProbe());
            }
            var left = Duration.between(now, Collections.min(times));
            // at least 1 ms, so that what is due but cannot start does not make the loop spin
            return left.isPositive() ? left : Duration.ofMillis(1);
        }

        /// Returns when a row may start next. If no slot is free, returns `Instant.MAX`, because a
        /// message will end the wait.
        private Instant nextStart(Instant now) {
            return !hasRoom(now) ? Instant.MAX
                    : Collections.max(List.of(agenda.nextRowDue(now), gate.rowsFrom()));
        }

        private Instant nextLook() {
            return Collections.max(List.of(agenda.nextLookDue(), gate.lookUpsFrom()));
        }

        /// Returns why nothing seems to happen, for the progress line: a pause, or
        /// the time until the next start.
        private Optional<String> pauseNote(Instant now) {
            if (agenda.stopReason().isPresent()) return Optional.empty();
            var next = inFlight.isEmpty() ? nextStart(now) : now; // with a running row, the line moves anyway
            return gate.note(now, health.nextProbe()).or(() -> next.isAfter(now) && next.isBefore(Instant.MAX)
                    ? Optional.of("next row in " + Text.seconds(Duration.between(now, next)))
                    : Optional.empty());
        }

        /// Returns how many slots are taken. A stream that sends only pings for `patience` may have
        /// lost its worker, and would keep its slot until `TIMEOUT`. Together with runs that were
        /// cut off, such streams therefore hold only the slots that [Pace#held] leaves them.
        private int busySlots(Instant now) {
            int quiet = (int) inFlight.values().stream().filter(sent -> sent.isStreaming
                    && now.isAfter(sent.lastEvent.plus(pace.patience()))).count();
            return inFlight.size() - quiet + pace.held(agenda.cutOffTimes(), quiet, now);
        }

        /// Counts runs that may be active on the server, with those that were cut off.
        private int runsOnServer() {
            return inFlight.size() + agenda.cutOffTimes().size();
        }

        /// Handles an event of a stream. A live view gets the events that it displays. The other
        /// events concern the log, the time limit and the pace.
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
                case StreamEvent.FormExpired(var node) -> recordExpiry(attempt, node);
                case StreamEvent.Finished(var run, var recorded) -> {
                    sent.isStreaming = false; // no events come during the downloads, which is not a worker's silence
                    if (isOpen) logRun(sent, run);
                    writer.write();
                    recorded.complete(null); // the worker waits for the log before it downloads
                }
                case StreamEvent.Began _, StreamEvent.Idle _ when !isOpen -> {}
                case StreamEvent.Began(var run) -> {
                    sent.start = clock.instant();
                    sent.isStreaming = true;
                    logRun(sent, run);
                    health.noteResponse(attempt.at());
                    // its task was unknown when the other runs were stopped
                    if (taskStopsSent) stopTask(sent, StopEvent.INTERRUPTED);
                }
                case StreamEvent.Idle _ -> sent.isIdle = true;
            }
        }

        /// Logs a run once, so that a later session can look it up by its id. The id comes from the
        /// run's stream, or from a response without an outcome.
        private void logRun(InFlight sent, RunRef run) {
            if (sent.run.isPresent()) return;
            sent.run = Optional.of(run);
            writer.record(new RunEvent(clock.instant(), sent.attempt.row().id(), sent.attempt.user(), run.id(),
                    run.task()));
        }

        private void recordThrottle(Attempt attempt, String why) {
            writer.record(new ThrottleEvent(clock.instant(), attempt.user(), why, pace.slots()));
        }

        /// Adapts the pace and the mode to a response, then does what the [Judge]
        /// decides for the row.
        private void onResponse(Attempt attempt, Response received) {
            var sent = inFlight.remove(attempt.sequence());
            if (sent == null) return; // a look-up has already found the end of its run
            var now = clock.instant();
            // a broken proxy can send one response to several rows
            boolean isOurs = !(received instanceof Response.Ran ran)
                    || writer.batch().history().claim(attempt.row().index(), ran.id());
            var response = isOurs ? received
                    : new Response.Cut(Symptom.CONTRADICTED, "the response has the run of another row");
            gate.noteEnd(now);
            // a stop of ours shows nothing about the row or the server, and the next
            // session sends the row again
            boolean isOurStop = !sent.stopAsked.isEmpty() && response instanceof Response.Ran ran && ran.isStop();
            if (isOurStop && sent.stopAsked.equals(StopEvent.INTERRUPTED)) {
                logEnd(attempt, "interrupted", response, "stopped on request");
                return;
            }
            adjustPace(attempt, response, now);
            var verdict = isOurStop ? Outcome.failed("timed out: stopped after "
                    + Text.seconds(terms.limits().timeout())) : terms.judge().verdict(attempt, response);
            // only in these cases, no run can have started
            hasStartedRuns |= !(verdict instanceof Verdict.StopBatch || verdict instanceof Verdict.Throttled
                    || response instanceof Response.NotSent);
            // a later session needs to know what has been seen of an attempt without an outcome
            int http = response.httpStatus();
            if (http != 0) writer.record(new ResponseEvent(now, attempt.row().id(), attempt.user(), http));
            if (verdict instanceof Verdict.Unresolved) response.run().ifPresent(run -> logRun(sent, run));
            carryOut(attempt, sent.start, response, verdict);
            obeyPause(response, now); // last, because the first reason to stop is the one that counts
        }

        private void logEnd(Attempt attempt, String end, Response response, String why) {
            var now = clock.instant();
            if (!writer.batch().history().isClosed(attempt, end)) // otherwise an earlier session recorded it
                writer.record(EndEvent.of(attempt, now, end, response, why, writer.resultsBytesOnDisk()));
        }

        /// Obeys a pause that the server asks for, which holds for every request of the session. A
        /// pause that is too long stops the batch. After a stop, nothing is sent, so nothing has to
        /// pause.
        private void obeyPause(Response response, Instant now) {
            var pause = Backoff.Pause.of(response, now);
            if (pause.isEmpty() || agenda.stopReason().isPresent()) return;
            pause.get().stop().ifPresent(agenda::stopWith);
            if (agenda.stopReason().isPresent()) return;
            var text = pause.get().text();
            gate.extend(Gate.Reason.RETRY_AFTER, pause.get().until());
            if (!text.equals(lastPause)) watcher.say(text); // many responses may ask for the same pause
            lastPause = text;
        }

        /// Adapts concurrency, the server's health and the mode to a response. This does not depend
        /// on the row, because even a failed run shows that the server can run rows.
        private void adjustPace(Attempt attempt, Response response, Instant now) {
            var took = Duration.between(attempt.at(), now);
            if (response instanceof Response.Ran ran) pace.noteRunTime(ran.usage().within(took));
            switch (response) {
                case Response.Ran _, Response.Unreadable _ -> {
                    pace.noteSuccess();
                    health.noteSuccess(attempt.at());
                }
                // a 5xx may come from a proxy or a crash after the run has started;
                // an error event is Dify's own
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
                terms.limits().costUnavailable(mode, terms.modes().app).ifPresentOrElse(agenda::stopWith, () -> {
                    watcher.say(change);
                    // logged like a new session, so that later sessions continue in this mode
                    var session = writer.batch().history().last(SessionEvent.class).orElseThrow();
                    writer.record(session.with(now, mode, session.auto(), writer.resultsBytesOnDisk()));
                });
            });
        }

        /// Does what was decided about an attempt. Only retries of failures count against
        /// `MAX_RETRIES`, because a row is not at fault if the server was full or was not reached.
        ///
        /// @param start the instant from which the run's time limit counts
        private void carryOut(Attempt attempt, Instant start, Response response, Verdict verdict) {
            var now = clock.instant();
            switch (verdict) {
                case Outcome outcome -> finishRow(attempt, response, outcome, now);
                case Verdict.Again(var end, var tries, var after, var why) -> {
                    agenda.schedule(attempt.row(), tries, now.plus(after), Optional.empty());
                    logEnd(attempt, end, response, why);
                }
                case Verdict.Throttled(var after, var why) -> {
                    // the last argument is the number of the newest attempt
                    pace.cutAfterRefusal(attempt.sequence(), runsOnServer(), terms.names().count());
                    // runs that were cut off may hold more of the server's slots than [#busySlots]
                    // counts, so other rows would be refused in turn
                    if (runsOnServer() > busySlots(now)) gate.extend(Gate.Reason.FULL, now.plus(after));
                    health.noteRefusal(now, runsOnServer());
                    recordThrottle(attempt, why);
                    // no failure, but one more throttle, which only makes the next wait longer
                    agenda.schedule(attempt.row(), attempt.tries().plus(0, 1), now.plus(after), Optional.empty());
                    logEnd(attempt, "throttled", response, why);
                }
                case Verdict.Unresolved reason -> {
                    if (agenda.stopReason().isPresent()) return; // the next session looks it up
                    // a run that timed out has used up its time, but is looked up
                    // once before it is stopped
                    var deadline = reason.symptom() == Symptom.TIMED_OUT ? now : start.plus(terms.limits().timeout());
                    agenda.lookUp(new LookUp(attempt, Purpose.OUTCOME, response, reason).within(now, deadline)
                            .knowing(writer.batch().history().isShown(attempt)),
                            now.plus(terms.modes().app.firstLook()));
                }
                case Verdict.LookAgain(var lookUp, var next) -> agenda.lookUp(lookUp, lookUp.lookAgain(next, now));
                case Verdict.Take(var outcome, var inputs) -> recover(attempt, response, outcome, inputs);
                case Verdict.Close(var end, var why) -> logEnd(attempt, end, response, why);
                case Verdict.SendAgain(var tries, var checked) -> {
                    writer.write(); // so that the history shows what was just learnt about the row's attempts
                    agenda.schedule(attempt.row(), tries, now, checked);
                }
                case Verdict.SettlesAt(var time) -> tally.noteSettlesAt(time);
                case Verdict.StopBatch(var stop, var isShutOut) -> {
                    // a cut attempt stays unresolved, because it was its look-up that was refused
                    if (!(response instanceof Response.Cut)) logEnd(attempt, "refused", response, stop.what());
                    stopAll(stop, isShutOut);
                }
            }
        }

        /// Records a result that a look-up has found.
        ///
        /// @param inputs those that were sent, if the row has changed since, otherwise empty
        private void recover(Attempt attempt, Response response, Outcome outcome, Map<String, String> inputs) {
            var now = clock.instant();
            writer.record(new HarvestEvent(now, attempt.user(), response.run().map(RunRef::id).orElse("")));
            var row = inputs.isEmpty() ? attempt.row() : attempt.row().recorded(inputs);
            finishRow(attempt.with(row, attempt.tries()), response, outcome, now);
            if (!inputs.isEmpty()) watcher.say("Row " + Text.id(row.id()) + " changed after its run was sent; its "
                    + "result has the inputs that were sent."
                    + (lookUpRules.rerunChanged() ? "" : " --rerun-changed runs it again."));
        }

        /// Stops the batch, because the server refuses all of it. If the server no longer accepts
        /// the key (the app was deleted), the outcomes of running rows may never arrive. Outcomes
        /// of the next seconds count, and a later session looks the other runs up.
        private void stopAll(Stop stop, boolean isShutOut) {
            agenda.stopWith(stop);
            // after requests to stop, `hardStop` is set already
            if (!isShutOut || taskStopsSent || anyMustStayOpen()) return;
            taskStopsSent = true; // requests to stop would be refused, too
            hardStop = Collections.min(List.of(hardStop, clock.instant().plus(REJECTED_KEY_TIMEOUT)));
        }

        /// Stops the batch if a limit is reached. When no row is left to send, only
        /// `--max-failures` stops the batch, because the other limits exist to save the cost of
        /// further rows.
        private void checkLimits() {
            terms.limits().tooManyFailed(tally.count(RowStatus.FAILED), tally.done()).ifPresent(agenda::stopWith);
            if (agenda.nextRowDue(clock.instant()).equals(Instant.MAX)) return; // nothing is left to send
            writer.batch().history().unusableRequirement().ifPresent(agenda::stopWith);
            // the limits are for the whole batch; only this session shows whether
            // its runs have prices
            terms.limits().limitReached(writer.batch().figures().spending, tally.ownSpending)
                    .ifPresent(agenda::stopWith);
            // a row that succeeded shows that the workflow and its settings can work
            if (writer.batch().index().succeeded() == 0)
                terms.limits().sameCause(tally.causes(), tally.done()).ifPresent(agenda::stopWith);
        }

        /// Says once how to see what the runs cost, unless the user chose the mode
        /// or runs the demo.
        private void notePrices() {
            if (pricesNoted || !tally.ownSpending.lacksPrices()) return;
            pricesNoted = true;
            boolean isOurChoice = writer.batch().history().last(SessionEvent.class)
                    .filter(session -> session.auto() && !session.dify().baseUrl().equals("demo")).isPresent();
            if (isOurChoice && terms.modes().mode() == Mode.BLOCKING && terms.modes().app == AppKind.WORKFLOW)
                watcher.say("Note: Dify reports prices only in streams; --mode streaming shows what the runs cost.");
        }

        /// Records the row's outcome, which counts when it is written. A success is one line of the
        /// results, and any other outcome one line of the log, so that no outcome can be in both.
        private void finishRow(Attempt attempt, Response response, Outcome outcome, Instant now) {
            if (response instanceof Response.Ran ran && outcome.status().isSuccess()) {
                var line = ResultLine.of(attempt, ran, now);
                Invariant.hold(line.isOf(attempt), "a result was of another attempt");
                writer.recordSuccess(line);
            } else writer.recordEnd(EndEvent.of(attempt, now, outcome.status().word(), response, outcome.text(),
                    writer.resultsBytesOnDisk()));
            outcomes.add(() -> watcher.onOutcome(attempt.row(), outcome, response));
            if (response instanceof Response.Ran ran) noteOnce(Text.id(attempt.row().id()), ran);
        }

        /// Reports each new version of the workflow. Reports a damaged character and expiring links
        /// only once, because other rows will probably have them, too.
        private void noteOnce(String id, Response.Ran ran) {
            var former = version;
            if (!ran.workflowId().isEmpty()) version = ran.workflowId();
            if (!former.isEmpty() && !former.equals(version)) watcher.say("The workflow's version changed "
                    + "within this batch, from " + former + " to " + version + ". --workflow-id " + former
                    + " pins the earlier one.");
            boolean mayBeStopped = !terms.modes().app.hasRuns() && ran.status().isSuccess() && ran.isStop();
            if (!tokensNoted && mayBeStopped) watcher.say("Dify counted no tokens for row " + id + ". If its model has "
                    + "no price list, a row that was stopped on the server looks like that.");
            tokensNoted |= mayBeStopped;
            if (!damageNoted && Json.hasText(ran.outputs(), text -> Json.wellFormed(text).contains("\uFFFD"))) {
                damageNoted = true;
                watcher.say("The outputs of row " + id + " contain U+FFFD, which replaces a damaged character "
                        + "such as half an emoji.");
            }
            if (linksNoted || !ran.status().isSuccess() || ran.files().isPresent()) return;
            linksNoted = Json.hasText(ran.outputs(), "__dify__file__"::equals); // every file object of Dify contains it
            if (linksNoted) watcher.say("The outputs contain links to files that expire within minutes; "
                    + "--save-files DIR downloads them.");
        }

        /// Notes what a look-up shows about the run, then does what the
        /// [LookUpRules] decide for the row.
        private void onLookUpResult(LookUp lookUp, LookUpResult found) {
            agenda.release(lookUp);
            var attempt = lookUp.attempt;
            var now = clock.instant();
            var history = writer.batch().history();
            lookUp.note(found, now, terms.limits().timeout());
            // Dify ends a run as a success if nobody answers its form
            if (found instanceof LookUpResult.Ended(var ran, _, var at) && ran.status().isSuccess())
                history.formExpired(attempt.user(), at).ifPresent(form -> recordExpiry(attempt, form.node()));
            if (found.isThere() && history.isResent(attempt)) recordLate(attempt, found);
            if (lookUp.purpose == Purpose.LATE) writer.write(); // a success just found by a look-up counts
            var here = new LookUpRules.LookUpContext(history.listing(attempt, terms.modes()),
                    history.passedAt(attempt.user()), agenda.hasRows() || !inFlight.isEmpty(),
                    writer.status(attempt.row()), health.outages());
            for (var verdict : lookUpRules.verdicts(lookUp, found, here, now))
                carryOut(attempt, lookUp.start(), LookUpRules.known(lookUp, found), verdict);
        }

        private void recordExpiry(Attempt attempt, String node) {
            writer.record(new ExpiredEvent(clock.instant(), attempt.row().id(), attempt.user(), node));
        }

        /// Lets a silent stream wait for its next event. If its run has ended, this end counts. An
        /// empty answer may be torn, and the stream may still bring it.
        private void endSilence(InFlight sent, LookUpResult found) {
            sent.lookedUp = false;
            sent.isIdle = false;
            sent.lastLook = clock.instant();
            boolean isOpen = inFlight.containsKey(sent.attempt.sequence()); // false if the stream's own end came first
            if (!isOpen || !(found instanceof LookUpResult.Ended(var ran, _, _)) || ran.isEmptyAnswer()) return;
            if (sent.thread != null) sent.thread.interrupt(); // null if the worker has not started
            onResponse(sent.attempt, ran);
        }

        /// Records a run that was found although its row was sent again. The exit code is then 3,
        /// because the row may have been paid for twice.
        private void recordLate(Attempt attempt, LookUpResult found) {
            var run = found.run().orElse(RunRef.NONE);
            writer.record(new LateEvent(clock.instant(), attempt.row().id(), attempt.user(), run.id(), found.word()));
            watcher.say("Row " + Text.id(attempt.row().id()) + ": " + run.name()
                    + " was found after the row was sent again; you may have paid for the row twice.");
        }

        /// Stops starting rows at the first signal, and gives running rows the grace period. At the
        /// second signal, asks Dify to stop them.
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

        /// Asks Dify to stop the runs in flight, and waits up to `patience` for their outcomes. The
        /// tasks of blocking runs are unknown, so they cannot be stopped. If there are only such
        /// runs, this does not wait, because the next session looks them up.
        private void stopTasks(Duration patience) {
            if (!taskStopsSent) for (var sent : inFlight.values()) stopTask(sent, StopEvent.INTERRUPTED);
            taskStopsSent = true;
            boolean isAnyStopAsked = inFlight.values().stream().anyMatch(sent -> !sent.stopAsked.isEmpty());
            hardStop = isAnyStopAsked ? clock.instant().plus(patience) : clock.instant();
            // the grace period is over; streams that must stay open are closed only
            // after a second signal
            if (patience.equals(STOP_TIMEOUT) && anyMustStayOpen()) hardStop = Instant.MAX;
        }

        private boolean anyMustStayOpen() {
            return inFlight.values().stream().anyMatch(this::mustStayOpen);
        }

        /// Returns whether the stream must be read to its end, because Dify would drop the answer
        /// that the model is paid for, see [AppKind].
        private boolean mustStayOpen(InFlight sent) {
            return sent.attempt.mode() == Mode.STREAMING && !terms.modes().app.hasRuns();
        }

        /// Asks Dify to stop a run, once.
        private void stopTask(InFlight sent, String why) {
            var run = sent.run.orElse(RunRef.NONE);
            if (!sent.stopAsked.isEmpty() || run.task().isEmpty()) return;
            sent.stopAsked = why;
            requestStop(run, sent.attempt.user(), why,
                    () -> ports.workers().execute(() -> ports.workflow().stop(run, sent.attempt.user())));
        }

        /// Follows a session: the progress of a batch, or a retry in the shell. The engine's thread
        /// calls it. Other threads call only [#isLive] and [#say].
        interface Watcher {
            /// Receives the figures, about five times a second.
            default void watch(Tally tally) {}

            /// Returns whether nodes and texts are shown while a run is active.
            default boolean isLive() {
                return false;
            }

            default void onStreamEvent(StreamEvent.Live event) {}

            /// Receives the outcome of a row, with the response or the look-up that showed it, when
            /// it is on disk.
            default void onOutcome(Row row, Outcome outcome, Response response) {}

            void say(String sentence);

            void end();
        }
    }

    /// Holds rows not started yet, rows that wait for another attempt, and runs to look up, each
    /// with its time. Only the engine's thread uses it, except for [#stopReason].
    static final class Agenda {
        private final Queue<Due> lookUps = new PriorityQueue<>(Comparator.comparing(Due::at)
                .thenComparing(due -> due.lookUp().attempt.at())); // the oldest attempt first
        private final Queue<Waiting> waiting = new PriorityQueue<>(Comparator.comparing(Waiting::due));
        private final Iterator<Row> rows; // reads the CSV as the session goes, because it may not fit into memory
        private Optional<Row> fresh = Optional.empty(); // the next row that was not sent yet
        /// Holds, by row, when its run was cut off. Such a run may still hold a slot on the server.
        private final Map<Integer, Instant> cutOffTimes = new HashMap<>();
        private final Batch batch;
        private final boolean isForced; // whether rows run again whatever became of their earlier attempts
        private int uncounted = 0; // counts the look-ups of attempts that may have cost what no file shows
        private int rechecks = 0; // counts the look-ups of [Purpose#RESEND]
        private boolean lateAsked = false; // whether the last look-ups, see [#lookForLate], have started
        private volatile Optional<Stop> stopReason = Optional.empty(); // workers read it, too

        record Waiting(Row row, Attempt.Tries tries, Instant due) {}

        private record Due(LookUp lookUp, Instant at) {}

        /// Continues with what earlier sessions left: attempts whose runs may still
        /// appear, and unresolved attempts.
        ///
        /// @param now the session's start, before which earlier sessions sent even
        ///            if the clock was set back
        Agenda(Batch.Wanted wanted, Duration firstLook, Instant now, Duration timeout) {
            this.batch = wanted.batch();
            this.isForced = wanted.asked().has(Choice.AGAIN);
            this.rows = batch.csv().orElseThrow().rows(wanted.fresh(), batch.index()::fingerprint);
            readRow();
            var unresolved = wanted.unresolved();
            // the log contains only ids, so the cells are read from the CSV
            if (!unresolved.isEmpty()) batch.rows(unresolved::containsKey).forEachRemaining(row ->
                    lookUp(batch.history().lookUp(unresolved.get(row.index()), row, now, timeout),
                            now.plus(firstLook)));
        }

        /// Removes and returns the next row that is due. Rows that wait for another attempt go
        /// before rows that were not sent yet, so that a row is completed soon after its first
        /// attempt.
        Optional<Waiting> next(Instant now) {
            while (nextWaitingDue().isAfter(now) && fresh.isPresent()) {
                // scheduled like a repeated attempt, because an earlier session may
                // have left unseen attempts
                schedule(fresh.get(), Attempt.Tries.NONE, now, Optional.empty());
                readRow();
            }
            return nextWaitingDue().isAfter(now) ? Optional.empty() : Optional.of(waiting.remove());
        }

        /// Reads one row ahead, so that [#hasRows] is known. If the CSV has changed, no more rows
        /// start, because the other rows may no longer be those that were checked.
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

        /// Counts rows to resend, also those whose earlier attempts are looked up
        /// when they are due.
        int waiting() {
            return waiting.size() + rechecks;
        }

        int lookUps() {
            return lookUps.size() - rechecks;
        }

        LookUp takeLookUp() {
            var taken = lookUps.remove().lookUp();
            if (taken.purpose == Purpose.RESEND) rechecks--;
            return taken;
        }

        Collection<Instant> cutOffTimes() {
            return Collections.unmodifiableCollection(cutOffTimes.values());
        }

        Optional<Stop> stopReason() {
            return stopReason;
        }

        Instant nextLookDue() {
            return lookUps.isEmpty() ? Instant.MAX : lookUps.peek().at();
        }

        /// Schedules another attempt. Runs of earlier attempts that may still appear
        /// are looked up first, one by one, unless the user wants another run in any case.
        ///
        /// @param checked the attempt that was looked up last, so that those before
        ///                it are not looked up again
        void schedule(Row row, Attempt.Tries tries, Instant due, Optional<Attempt> checked) {
            var unresolved = isForced ? List.<Attempt>of() : batch.history().unresolved(row);
            int next = 1 + checked.map(one -> unresolved.stream().map(Attempt::user).toList()
                    .indexOf(one.user())).orElse(-1); // 0 without it, or if it was dropped
            if (next == unresolved.size()) waiting.add(new Waiting(row, tries, due));
            else lookUp(LookUp.recheck(unresolved.get(next).limitedTo(due).with(row, tries), Purpose.RESEND)
                    .knowing(batch.history().isShown(unresolved.get(next))), due);
        }

        void lookUp(LookUp lookUp, Instant due) {
            lookUps.add(new Due(lookUp, due));
            if (lookUp.purpose == Purpose.RESEND) rechecks++;
            if (lookUp.isUncounted()) uncounted++;
            if (lookUp.holdsSlot()) cutOffTimes.put(lookUp.attempt.row().index(), lookUp.cutAt());
        }

        /// Frees the slot of a run that was looked up. Its next look-up may take it again.
        void release(LookUp lookUp) {
            if (lookUp.isUncounted()) uncounted--;
            cutOffTimes.remove(lookUp.attempt.row().index());
        }

        /// Lets nothing new start from now on. The first reason stays, because later ones may
        /// follow from it. Only an interrupt replaces it, because the exit code must show that the
        /// user stopped the command.
        void stopWith(Stop reason) {
            if (stopReason.isEmpty() || reason.exit() == Exit.INTERRUPTED) stopReason = Optional.of(reason);
        }

        boolean hasUncounted() {
            return uncounted > 0;
        }

        boolean hasRows() {
            return !waiting.isEmpty() || fresh.isPresent();
        }

        /// Looks once more for each run that counted as not started, when no row and no look-up is
        /// left. At that time, a late run has had the longest time to appear, and it may be a
        /// success that its row lacks.
        void lookForLate(Instant now) {
            if (hasRows() || !lookUps.isEmpty() || lateAsked) return;
            lateAsked = true;
            var late = batch.history().awaited();
            if (late.isEmpty()) return; // otherwise the CSV is read for their cells
            try {
                batch.rows(late::containsKey).forEachRemaining(row -> late.get(row.index()).forEach(one ->
                        lookUp(LookUp.recheck(one.attempt(row), Purpose.LATE), now)));
            } catch (Unusable changed) {
                stopWith(Stop.early(changed.what(), changed.hint));
            }
        }

        /// Returns whether nothing is left to do, including the last look-ups. It is false before
        /// they have started.
        boolean isDone() {
            return !hasRows() && lookUps.isEmpty() && lateAsked;
        }

        /// Returns when the next row is due, which is now if a row was never sent. `Instant.MAX`
        /// means that no row is left.
        Instant nextRowDue(Instant now) {
            return fresh.isPresent() ? now : nextWaitingDue();
        }

    }

    /// Holds the figures of this session, and how fast its rows are. Only the
    /// engine's thread uses it.
    static final class Tally extends Figures {
        /// Limits the time between two ticks of a process that is active, which has one every
        /// 0.2 s. A longer gap means that the process or the machine was suspended.
        private static final Duration LONGEST_TICK = Duration.ofSeconds(5);

        final long asked; // rows of this session
        final Pace pace;
        private final InstantSource clock;
        private final Instant begunAt;
        private final BitSet ours; // the rows of this session
        private final BitSet open; // the rows of this session that have no outcome of this session
        private final Map<RowStatus, Long> counts = new EnumMap<>(RowStatus.class);
        /// Counts the batch's other rows by status, so that the progress line can show the whole
        /// batch. If the user selected only a part of the batch, the map is empty, because the
        /// progress line then shows only that part.
        private final Map<RowStatus, Long> others = new EnumMap<>(RowStatus.class);
        private final Map<String, Long> causes = new HashMap<>();
        private final ArrayDeque<Instant> recent = new ArrayDeque<>(); // when the last rows ended, for the rate
        /// Counts only runs of this session, because looked-up runs of earlier
        /// sessions have no price.
        final Usage.Spending ownSpending = new Usage.Spending();
        private Instant lastTick = Instant.MAX; // before the first tick, there is no gap
        /// Holds from when on a later session settles all rows that are unknown only for now.
        private Optional<Instant> settlesAt = Optional.empty();
        private Duration suspended = Duration.ZERO;
        private Activity activity = new Activity(0, 0, 0, Optional.empty());

        void noteSettlesAt(Instant time) {
            if (settlesAt.filter(time::isBefore).isEmpty()) settlesAt = Optional.of(time);
        }

        Optional<Instant> settlesAt() {
            return settlesAt;
        }

        /// Holds the state of the session for the progress line.
        ///
        /// @param lookUps counts runs that are looked up, and streams that have been
        ///                silent for a while
        /// @param pause   why the session pauses, if it does
        record Activity(int running, int waiting, int lookUps, Optional<String> pause) {}

        Tally(Batch.Wanted wanted, Pace pace, InstantSource clock) {
            this.ours = wanted.entries();
            this.open = wanted.entries(); // a second copy, from which rows are removed
            this.asked = wanted.rows();
            this.pace = pace;
            this.clock = clock;
            this.begunAt = clock.instant();
            if (!wanted.asked().isPart()) for (var status : RowStatus.values())
                others.put(status, wanted.batch().index().count(status) - wanted.count(status));
        }

        /// Records the state of the session. A gap of [#LONGEST_TICK] or more is left out of the
        /// time and the rate, which would otherwise be wrong for the rest of the session.
        void tick(Instant time, Activity activity) {
            this.activity = activity;
            var before = lastTick;
            var gap = before.isBefore(time) ? Duration.between(before, time) : Duration.ZERO;
            lastTick = time;
            if (gap.compareTo(LONGEST_TICK) < 0) return;
            // moves earlier ends up to the gap's end; rows that ended after the gap
            // but before this call stay
            for (int left = recent.size(); left > 0; left--) {
                var ended = recent.remove();
                recent.add(ended.isAfter(before) ? ended : ended.plus(gap));
            }
            suspended = suspended.plus(gap);
        }

        @Override
        void countSent(int entry, Instant at) {
            super.countSent(entry, at);
            if (recent.isEmpty()) recent.add(at); // the first rate is measured from the start of the first row
        }

        @Override
        void countSpending(int entry, Cost cost) {
            super.countSpending(entry, cost);
            if (isSent(entry)) ownSpending.add(cost);
        }

        /// Records an outcome. A late run may change an earlier one, even of a row
        /// that is not part of this session.
        @Override
        void countOutcome(int entry, RowStatus former, Outcome outcome, double seconds) {
            super.countOutcome(entry, former, outcome, seconds);
            var now = clock.instant();
            boolean isOurs = ours.get(entry);
            if (!isOurs && others.isEmpty()) return; // the session shows, and its exit code is about, only its part
            var rows = isOurs ? counts : others;
            // a row that has had an outcome was counted under its former status
            if (!open.get(entry)) rows.computeIfPresent(former, (_, count) -> count - 1);
            open.clear(entry);
            rows.merge(outcome.status(), 1L, Long::sum);
            if (outcome.status() == RowStatus.FAILED) causes.merge(Text.cause(outcome.text()), 1L, Long::sum);
            recent.add(now);
            // few enough that the rate follows a server that becomes slower, and
            // enough that it is steady
            if (recent.size() > 200) recent.remove();
        }

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

        /// Returns whether the exit code may be 0: not if a file is missing, or a
        /// late run may have been paid for twice.
        boolean isAllDone() {
            return succeeded() >= asked && missingFiles().isEmpty() && count(LateEvent.class) == 0;
        }

        /// Returns whether all rows left are looked up or wait for a retry. This time cannot be
        /// estimated.
        boolean onlyWaits() {
            return asked > done() && asked - done() <= activity.lookUps() + activity.waiting();
        }

        Duration elapsed() {
            return Duration.between(begunAt, clock.instant()).minus(suspended);
        }

        /// Returns the recent rows per second, or 0 if too few have ended. The span lasts until
        /// now, so that the rate falls while no row ends.
        double rate() {
            if (recent.size() < 2) return 0;
            long span = Math.max(1, Duration.between(recent.peekFirst(), clock.instant()).toMillis()); // not 0
            return (recent.size() - 1) * 1000.0 / span;
        }

        /// Returns the time for the rows left, at the recent rate. Returns empty if the rate is
        /// unknown, if no row is left, or if all rows wait.
        Optional<Duration> timeLeft() {
            return rate() == 0 || done() >= asked || onlyWaits() ? Optional.empty()
                    : Optional.of(Duration.ofMillis((long) (1000 * (asked - done()) / rate())));
        }
    }

    // ── Dify ─────────────────────────────────────────────────────────────────

    record ServerInfo(String app, AppKind kind, String version) {}

    /// Sends a row to Dify and reads its response. Cells become values, files are uploaded before
    /// the run, and the files of its outputs are saved after it.
    record Sender(DifyClient client, Form form, Optional<Path> saveFiles, List<Requirement> requirements)
            implements Workflow {
        /// Sends an attempt. A file that occurs in several of its cells is uploaded once.
        @Override
        public Response run(Attempt attempt, Consumer<StreamEvent> heard) {
            var values = form.values(attempt.row());
            for (var value : values.entrySet())
                if (value.getValue() instanceof Value.Invalid invalid) // a file has changed since it was checked
                    // false, because another try would read the same file
                    return new Response.NotUploaded(value.getKey() + " " + invalid.why(), false, Optional.empty());
            var ids = new LinkedHashMap<Value.Local, String>();
            for (var file : values.values().stream().flatMap(Value::locals).distinct().toList())
                switch (client.upload(file, attempt.user())) {
                    case DifyClient.Reply.Got(var id) -> {
                        ids.put(file, id);
                        heard.accept(new StreamEvent.Uploaded());
                    }
                    case DifyClient.Reply.NotGot(var response) -> {
                        return judgeFailedUpload("upload of " + file.name() + ": ", response);
                    }
                }
            values.replaceAll((_, value) -> value.uploaded(ids));
            var response = withStoredOutputs(attempt, values, client.run(attempt, values, heard));
            if (saveFiles.isEmpty() || !(response instanceof Response.Ran ran)) return response;
            // if this process dies during the downloads, the next session finds the
            // run in the log; a slow disk delays them by 10 s at most, because the
            // links expire after five minutes by default
            ran.run().ifPresent(run -> {
                var recorded = new CompletableFuture<Void>();
                heard.accept(new StreamEvent.Finished(run, recorded));
                recorded.completeOnTimeout(null, 10, TimeUnit.SECONDS).join();
            });
            return withSavedFiles(attempt, ran);
        }

        /// Asks once for the stored run if a blocking response fails a requirement. Dify 1.13 can
        /// respond with an empty text although the run has one.
        private Response withStoredOutputs(Attempt attempt, Map<String, Value> values, Response response) {
            if (attempt.mode() != Mode.BLOCKING || !(response instanceof Response.Ran ran) || !ran.status().isSuccess()
                    || requirements.stream().allMatch(one -> one.fault(ran.outputs()).isEmpty())) return response;
            var question = new Question(attempt, Purpose.OUTCOME, Symptom.CUT, ran.run(), false);
            return client.look(question, values) instanceof LookUpResult.Ended(var stored, _, _)
                    && stored.status().isSuccess() && !stored.isEmptyAnswer()
                    ? ran.with(ran.message(), stored.outputs()) : ran;
        }

        @Override
        public LookUpResult look(Question question) {
            var attempt = question.attempt();
            // the values that were sent are known only if the row has not changed since
            var found = client.look(question, attempt.isCurrent() ? form.values(attempt.row()) : Map.of());
            return found instanceof LookUpResult.Ended(var ran, var inputs, var at)
                    ? new LookUpResult.Ended(withSavedFiles(attempt, ran), inputs, at) : found;
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

        /// Judges a failed upload. Dify rejects a file with 400, 413 or 415 (`files.json`), and
        /// then the row is at fault. A rejected key and throttling count as they do for a run.
        private static Response judgeFailedUpload(String upload, Response response) {
            return switch (response) { // false and true: whether another try may succeed
                case Response.Refused refused when refused.status() == 400 || refused.status() == 413
                        || refused.status() == 415 ->
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
            /// Saves a row's files. If one cannot be saved, it is reported as missing. The row was
            /// paid for and does not fail.
            Response.SavedFiles save(String id, ObjectNode outputs) {
                long start = System.nanoTime();
                var saved = new ArrayList<Path>();
                var missing = new LinkedHashMap<String, String>();
                for (var output : outputs.properties())
                    // every file object of Dify has this field; lists and objects
                    // may contain some, too
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

            /// Saves a file under a random name until it is whole and on disk, so that no
            /// incomplete file gets its name. If no response comes, tries once more. `size` is 0 if
            /// Dify does not know it.
            private Path save(URI address, long size, Path place) throws IOException {
                // this fails before the download if the folder cannot be written
                try (var part = Temporary.of(folder, Temporary.HIDDEN_PREFIX)) {
                    var reply = client.download(address, size, part.channel());
                    if (reply instanceof DifyClient.Reply.NotGot(var first)
                            && !new LookUpResult.Inconclusive(first).isAnswer()) {
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

            /// Returns the URL of a file. A row's content can decide which link a workflow returns,
            /// so the link is not trusted. It must not lead to anything that only this machine can
            /// reach.
            URI parseUrl(String link) throws IOException {
                if (link.isBlank()) // a blank link would lead to the API itself
                    throw new IOException("the output has no URL");
                try {
                    // a link without a host is relative to the API's URL
                    var address = client.access().baseUrl().resolve(link.strip());
                    if (!String.valueOf(address.getScheme()).matches("https?") || address.getHost() == null
                            || address.getPort() > 65_535) throw new IOException("not an http or https URL");
                    var scope = localScope(address);
                    // links to a Dify on this machine are as local as the API's own URL
                    if (!scope.isEmpty() && !scope.equals(localScope(client.access().baseUrl())))
                        throw new IOException("a " + scope + " address");
                    return address;
                } catch (IllegalArgumentException _) {
                    throw new IOException("not a URL");
                }
            }

            /// Returns `link-local` or `loopback` for a host that other machines
            /// cannot reach, otherwise an empty text.
            private static String localScope(URI address) {
                try {
                    var ips = List.of(InetAddress.getAllByName(address.getHost()));
                    if (ips.stream().anyMatch(InetAddress::isLinkLocalAddress)) return "link-local";
                    boolean isOwn = ips.stream().anyMatch(ip -> ip.isLoopbackAddress() || ip.isAnyLocalAddress());
                    return isOwn ? "loopback" : "";
                } catch (UnknownHostException _) {
                    return "";
                }
            }

            /// Returns `<id>-<output>-<n><ext>`, a name within the folder. A hash follows an id
            /// that had to be changed, because two such ids may become equal. All parts together
            /// stay below the 255 bytes that file systems allow.
            static String fileName(String id, String output, int number, String extension) {
                var row = safeName(id, 100).replaceFirst("^\\.", "_"); // a leading dot would hide the file
                // the hash is one of cells, so the id is passed as a cell without a name
                var mark = row.equals(id) ? "" : "~" + HexFormat.of().toHexDigits(Fingerprint.of(Map.of("", id)));
                return row + mark + "-" + safeName(output, 80) + "-" + number
                        + safeName(extension.replaceFirst("^(?=[^.])", "."), 20); // adds a missing dot
            }

            /// Shortens a text to whole characters within a number of bytes. Replaces characters
            /// that a file system or a shell treats specially, and `..`, which could lead out of
            /// the folder.
            private static String safeName(String text, int bytes) {
                var name = ByteBuffer.allocate(bytes);
                UTF_8.newEncoder().encode( // stops at the last character that fits as a whole
                        CharBuffer.wrap(text.replaceAll("[^\\p{L}\\p{N}._-]", "_").replace("..", "__")), name, true);
                return UTF_8.decode(name.flip()).toString();
            }

            /// Moves a downloaded file to its name or the next free one (`a~2.pdf`).
            /// If a file with the same bytes is there, returns that, so that a run
            /// that is found twice leaves no copies.
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

    /// Calls Dify's Service API. Never sleeps, never retries, never judges: the engine alone
    /// decides what is sent when.
    ///
    /// @param timeout    the limit of one run: from its first event (streaming) or
    ///                   its request (blocking) to its end
    /// @param firstEvent how long a stream may be silent before its first event
    record DifyClient(Transport wire, Access access, AppKind app, Duration timeout, Duration firstEvent)
            implements AutoCloseable {
        /// Limits a request that starts no run. While a Dify replaces its API process, it responds
        /// after 7 to 14 s, which this allows.
        private static final Duration QUERY_TIMEOUT = Duration.ofSeconds(30);
        /// Limits the silence before a stream's first event. Dify 1.14 then ends a stream, even if
        /// its run waits in the queue, so nothing would come later.
        private static final Duration FIRST_EVENT_TIMEOUT = Duration.ofSeconds(300);
        /// Limits a stream that must not be closed: this long after `TIMEOUT`, when its row was
        /// stopped. By default, Dify itself ends each row after this time.
        private static final Duration OPEN_TIMEOUT = Duration.ofMinutes(20);
        private static final String PAGE = "a web page (from a proxy?)";
        /// Limits a downloaded file to 1 GiB. A link may lead to an endless response.
        private static final long MAX_FILE_BYTES = 1L << 30;

        /// Creates a client of a workflow, which [#forApp] replaces when the server has reported
        /// the kind of the app.
        ///
        /// @param runs the largest number of runs at a time
        static DifyClient of(Access access, Duration timeout, int runs) {
            Transport.requireSockets(runs);
            var wire = new Transport(access, Transport.share(runs), Transport.QUIET, Response.AT_ONCE);
            return new DifyClient(wire, access, AppKind.WORKFLOW, timeout, FIRST_EVENT_TIMEOUT);
        }

        DifyClient forApp(AppKind kind) {
            return new DifyClient(wire, access, kind, timeout, firstEvent);
        }

        @Override
        public void close() {
            wire.close();
        }

        // Running

        /// Posts one attempt and reads up to its final event, not to the end of the stream, which
        /// Dify 1.14 delays by a second.
        Response run(Attempt attempt, Map<String, Value> inputs, Consumer<StreamEvent> heard) {
            boolean streaming = attempt.mode() == Mode.STREAMING;
            var post = post(startAddress(), "application/json", new ByteArrayEntity(body(attempt, inputs), null));
            var sent = new SentInputs(attempt.user(), inputs);
            var limit = streaming ? firstEvent : timeout;
            var timeoutSymptom = streaming ? Symptom.STREAM_SILENT : Symptom.TIMED_OUT;
            var reply = wire.exchange(post, limit, timeoutSymptom, http -> {
                if (http.status() != 200) return new Reply.Got<>(refusedOrFailed(http));
                return new Reply.Got<>(http.is(Transport.Exchange.STREAM) ? stream(http, sent, heard)
                        : blocking(http, heard));
            });
            return switch (reply) { // for a run, both are a [Response]
                case Reply.Got(var read) -> read;
                case Reply.NotGot(var broken) -> broken;
            };
        }

        /// Recognizes a row that ran and failed. Dify responds to it with the status
        /// and code of refused inputs, but it was paid for. Dify 1.9 responds like
        /// that even if the answer of a model is empty.
        private Response refusedOrFailed(Transport.Exchange http) throws IOException {
            var refused = refused(http);
            if (app == AppKind.WORKFLOW || refused.status() != 400) return refused;
            if (!app.hasRuns() && refused.message().startsWith("1 validation error for Data\nanswer\n"))
                return Response.Ran.answered(Json.MAPPER.createObjectNode().put("answer", ""), 0,
                        Response.ChatMessage.NONE);
            boolean hasRun = app.hasRuns() ? refused.message().startsWith(Response.ChatMessage.FAILED)
                    : !Judge.isRejected(refused);
            return hasRun ? Response.Ran.failed(refused.message()) : refused;
        }

        /// Returns the URL that starts a run. A workflow's version is part of it; a chatflow's is
        /// in the request.
        URI startAddress() {
            if (app != AppKind.WORKFLOW) return access.at(app.tasks);
            var version = Text.around("", encoded(access.workflowId()), "/");
            return access.at("/workflows/" + version + "run");
        }

        /// Reads a blocking response. If it contains no end of the run, the run is looked up.
        private Response blocking(Transport.Exchange http, Consumer<StreamEvent> heard) throws IOException {
            var symptom = !http.version().isEmpty() ? Symptom.CUT : Symptom.GATEWAY; // only Dify sends its version
            var reader = new RunReader(app);
            try {
                reader.add(objectOf(http));
            } catch (JsonProcessingException problem) {
                return new Response.Cut(symptom, "HTTP 200, " + Json.reason(problem));
            }
            reader.forms().forEach(heard);
            var ran = app != AppKind.WORKFLOW ? reader.answered() : reader.ran();
            if (ran.isPresent()) return ran.get();
            return new Response.Cut(reader.ref(), symptom, "HTTP 200, but the run had not finished");
        }

        /// Reads a stream up to its final event. If there is none, the run is looked up.
        private Response stream(Transport.Exchange http, SentInputs sent, Consumer<StreamEvent> heard)
                throws IOException {
            var reader = new RunReader(app);
            var limit = app.hasRuns() ? timeout : timeout.plus(OPEN_TIMEOUT);
            if (!app.hasRuns()) http.limit(limit); // the first event may take as long as the model
            for (var event = http.event(); event.isPresent(); event = http.event()) {
                reader.add(event.get());
                if (reader.isForeign(sent))
                    return new Response.Cut(Symptom.CONTRADICTED, "the stream belongs to another request");
                if (http.run().isEmpty() && reader.ref().isPresent()) // any event may be the first that arrives
                    http.began(reader.ref().get(), limit, heard);
                heard.accept(reader.streamEvent());
                // such a row is refused before its stream begins, so it ran
                if (!app.hasRuns() && reader.is("error"))
                    return Response.Ran.failed(RunReader.text(event.get(), "message"));
                // without a run, moderation or an annotation has answered; Dify 1.16
                // then makes up the end of a run
                if (reader.is("message_end") && (!app.hasRuns() || reader.ref().isEmpty()))
                    return reader.answered().<Response>map(end -> end)
                            .orElseGet(() -> new Response.Cut(Symptom.CUT, "it ended without an answer"));
                var end = reader.end();
                if (end.isPresent()) {
                    var ends = ends(end.get(), http, reader);
                    // an error of Dify 1.16 may lack the run id that the made-up end
                    // after it has (`odd_graphs.json`)
                    var response = Response.ofEnds(http.run().or(reader::ref), ends);
                    boolean isChatflow = app == AppKind.CHATFLOW;
                    return isChatflow && response instanceof Response.Ran ran ? reader.completed(ran) : response;
                }
            }
            return http.cut(Symptom.STREAM_SILENT, "the stream ended before the run had finished");
        }

        /// Collects further final events, which may follow after a moment. Dify 1.16 makes up a
        /// result after an error, and 1.9 sends the metadata of a chatflow's answer last.
        private List<Response> ends(Response first, Transport.Exchange http, RunReader reader) {
            var ends = new ArrayList<>(List.of(first));
            boolean mayFollow = first instanceof Response.Refused
                    || app == AppKind.CHATFLOW && !reader.hasMetadata();
            http.limit(Duration.ofMillis(100)); // in the recordings, such events follow within 3 ms
            try {
                while (mayFollow || http.hasBufferedBytes()) {
                    var event = http.event();
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

        /// Looks a run up by its id, or by its attempt's user. The user also decides if the id
        /// leads to another request's run, or to none and Dify 1.16 may have made it up.
        LookUpResult look(Question question, Map<String, Value> values) {
            var user = question.attempt().user();
            var sent = new SentInputs(user, values);
            if (question.stopsFirst()) stop(question.run().orElseThrow(), user);
            if (question.run().isEmpty() || !app.hasRuns()) return byName(sent);
            var run = question.run().get();
            var found = detail(run, sent);
            boolean isMadeUp = question.symptom() == Symptom.UNCONFIRMED
                    || question.symptom() == Symptom.CONTRADICTED || run.isMadeUp();
            if (found == LookUpResult.FOREIGN || isMadeUp && found instanceof LookUpResult.Absent) {
                var own = byName(sent);
                // if the id belongs to another run, an empty list does not show that
                // this attempt has none
                return own.isThere() || found instanceof LookUpResult.Absent ? own : found;
            }
            if (app == AppKind.WORKFLOW) return found;
            // a success gets the answer that people see, because moderation replaces
            // it only in the message
            if (!(found instanceof LookUpResult.Ended(var ran, _, _)) || !ran.status().isSuccess()) return found;
            return ofMessage(sent, message -> new StoredMessage(message, app).completing(found));
        }

        /// Returns whether the app has a run. Dify responds with 404 for a run of another app (1.9:
        /// with empty fields), and lists no conversation of another app's user. A record that
        /// cannot be read is a record of this app.
        Reply<Boolean> knows(Origin.Recorded run) {
            var sent = new SentInputs(run.user(), Map.of()); // the user alone must agree
            // only a stop needs the task, which is left empty
            var found = run.id().isEmpty() || !app.hasRuns() ? byName(sent) : detail(new RunRef(run.id(), ""), sent);
            if (found == LookUpResult.FOREIGN) return new Reply.Got<>(false);
            return found instanceof LookUpResult.Inconclusive(var response, _) && !found.isThere()
                    ? new Reply.NotGot<>(response) : new Reply.Got<>(found.isThere());
        }

        /// Looks a run up by the user of its attempt. A workflow's runs are in its
        /// log. Those of other apps are not, so their conversations are listed
        /// instead, except for completions, which no route shows. One entry is
        /// expected. A job that Dify ran twice has two entries of the same run.
        private LookUpResult byName(SentInputs sent) {
            if (app == AppKind.COMPLETION) return new LookUpResult.Unlisted();
            if (app.hasConversations()) return ofMessage(sent, message -> ofMessage(message, sent));
            var rows = list("/workflows/logs?limit=20&created_by_end_user_session_id=" + encoded(sent.user()),
                    row -> row.at("/created_by_end_user/session_id").asText("").equals(sent.user())
                            && !row.at("/workflow_run/id").asText("").isEmpty());
            return result(rows, known -> {
                if (known.isEmpty()) return new LookUpResult.Absent();
                var run = new RunRef(known.getFirst().at("/workflow_run/id").asText(), "");
                return detail(run, sent).listed(run);
            });
        }

        /// Interprets the message of a chatflow's run. Only a run that has paused can be asked for
        /// by its id.
        private LookUpResult ofMessage(JsonNode message, SentInputs sent) {
            if (message.isMissingNode()) return new LookUpResult.Absent();
            var stored = new StoredMessage(message, app);
            var run = stored.pausedRun();
            return run.isPresent() ? stored.completing(detail(run.get(), sent)) : stored.result();
        }

        /// Reads the message of the user's conversation, or a missing node if there is none.
        private LookUpResult ofMessage(SentInputs sent, Function<JsonNode, LookUpResult> reading) {
            var conversations = list("/conversations?limit=20&user=" + encoded(sent.user()), conversation ->
                    !conversation.path("id").asText("").isEmpty() && sent.matches(conversation.path("inputs")));
            return result(conversations, found -> {
                if (found.isEmpty()) return reading.apply(Json.MAPPER.missingNode());
                return result(messageOf(found.getFirst().path("id").asText(), sent), reading).listed(RunRef.NONE);
            });
        }

        /// Returns the first message of this conversation. Skips messages of other conversations,
        /// which the list should not contain. A conversation without a message is an error, because
        /// Dify creates both together.
        private Reply<JsonNode> messageOf(String conversation, SentInputs sent) {
            var path = "/messages?limit=20&user=" + encoded(sent.user()) + "&conversation_id=" + encoded(conversation);
            var messages = list(path, message -> sent.matches(message.path("inputs"), message.path("query")));
            var none = new Reply.NotGot<JsonNode>(Response.Refused.unexpected("the conversation has no message"));
            return isAbsent(messages) ? none : messages.then(all -> {
                for (var message : all)
                    if (message.path("conversation_id").asText(conversation).equals(conversation))
                        return new Reply.Got<>(message);
                return none;
            });
        }

        /// Returns the entries of a list if the list is whole and each entry belongs to this
        /// request. Any other response is an error. If it counted as an empty list, a row with an
        /// existing run could be sent again.
        Reply<List<JsonNode>> list(String path, Predicate<JsonNode> isOurs) {
            return ask(get(path), QUERY_TIMEOUT, http -> {
                var list = tree(http);
                var data = list.path("data");
                // conversations and messages have no `total`; a field of another
                // type makes the list incomplete
                boolean isWhole = data.isArray() && !list.path("has_more").asBoolean(list.has("has_more"))
                        && list.path("total").asInt(list.has("total") ? -1 : data.size()) == data.size();
                if (!isWhole || !data.valueStream().allMatch(isOurs))
                    throw unexpected("Dify returned another list, or part of it");
                return data.valueStream().toList();
            });
        }

        /// Looks a run up by its id. Accepts only a record with this id and with the inputs of this
        /// attempt, because a broken proxy may return the response to another request.
        private LookUpResult detail(RunRef run, SentInputs sent) {
            var reply = this.<LookUpResult>ask(get("/workflows/run/" + encoded(run.id())), QUERY_TIMEOUT, http -> {
                var detail = objectOf(http);
                if (detail.path("id").isNull() && detail.path("status").isNull())
                    return new LookUpResult.Absent(); // 1.9 responds with empty fields if it has no such run
                var id = RunReader.text(detail, "id");
                if (id.isEmpty()) throw unexpected("Dify returned a different run");
                var reader = new RunReader(app);
                reader.add(Json.MAPPER.createObjectNode().set("data", detail));
                if (!id.equalsIgnoreCase(run.id()) || reader.isForeign(sent)) return LookUpResult.FOREIGN;
                return reader.result(run, http.date("Date").orElseGet(Instant::now)); // by the server's clock
            });
            if (isAbsent(reply)) return new LookUpResult.Absent();
            // adds the run's id, which the transport does not know, so that the user
            // can find the paid run
            if (reply instanceof Reply.NotGot(Response.Unreadable(_, var why)))
                return new LookUpResult.Inconclusive(new Response.Unreadable(Optional.of(run), why));
            return result(reply, Function.identity());
        }

        /// Returns whether Dify has no such run. A 404 without Dify's code does not count, because
        /// a proxy may have sent it.
        private static boolean isAbsent(Reply<?> reply) {
            return reply instanceof Reply.NotGot(Response.Refused gone) && gone.status() == 404
                    && gone.code().equals("not_found");
        }

        private static <T> LookUpResult result(Reply<T> reply, Function<T, LookUpResult> then) {
            return switch (reply) {
                case Reply.Got(var value) -> then.apply(value);
                case Reply.NotGot(var response) -> new LookUpResult.Inconclusive(response);
            };
        }

        /// Creates an exception for a response that is JSON but has unexpected content. It has the
        /// type of a syntax error, because [#ask] treats both alike.
        private static JsonProcessingException unexpected(String what) {
            return new JsonParseException(null, what); // there is no parser
        }

        // Other requests

        /// Asks Dify to stop a task. Dify responds with `success` even if there is no such task
        /// (`stop.json`), so the response is not kept.
        void stop(RunRef run, String user) {
            var path = app.tasks + "/" + encoded(run.task()) + "/stop";
            var body = new ByteArrayEntity(Json.bytes(object("user", user)), null);
            ask(post(access.at(path), "application/json", body), QUERY_TIMEOUT, Transport.Exchange::prefix);
        }

        /// Uploads a file and returns its id. Does not send a file that a symbolic link has
        /// replaced since the check, because the link could lead anywhere. The time limit is the
        /// limit of a run, because a large file takes long to send.
        Reply<String> upload(Value.Local local, String user) {
            var boundary = "difyexec-" + UUID.randomUUID();
            // Dify 1.9 rejects these characters (`files.json`), and a quote or a
            // line break would end the header
            var name = local.name().replaceAll("[\\\\/:*?\"<>|\\p{Cntrl}]", "_");
            try (var in = Files.newInputStream(local.file())) {
                if (!local.file().toRealPath().equals(local.file()))
                    throw new IOException("the file was replaced by a symbolic link");
                // Dify rejects an upload without a type
                var type = Objects.requireNonNullElse(Files.probeContentType(local.file()), "application/octet-stream");
                var head = ("--%1$s\r\nContent-Disposition: form-data; name=\"user\"\r\n\r\n%2$s\r\n"
                        + "--%1$s\r\nContent-Disposition: form-data; name=\"file\"; filename=\"%3$s\"\r\n"
                        + "Content-Type: %4$s\r\n\r\n").formatted(boundary, user, name, type).getBytes(UTF_8);
                var tail = ("\r\n--" + boundary + "--\r\n").getBytes(UTF_8);
                long size = Files.size(local.file());
                var body = new EntityTemplate(head.length + size + tail.length, null, out -> {
                    out.write(head);
                    if (in.transferTo(out) != size) throw new IOException("the file changed during the upload");
                    out.write(tail);
                });
                return ask(post(access.at("/files/upload"), "multipart/form-data; boundary=" + boundary, body),
                        timeout, http -> {
                            var id = tree(http).path("id").asText("");
                            if (id.isEmpty()) throw unexpected("Dify returned no id for the uploaded file");
                            return id;
                        });
            } catch (IOException problem) {
                // the file on this machine is at fault, so another try fails, too
                return new Reply.NotGot<>(
                        new Response.NotUploaded(local.file() + ": " + Text.reason(problem), false, Optional.empty()));
            }
        }

        /// Fetches a whole file of an output. The link is signed, so the key is not sent; the link
        /// may even lead to another server. If Dify knows the file's `size`, the file must have it.
        Reply<FileChannel> download(URI link, long size, FileChannel to) {
            return ask(new BasicClassicHttpRequest("GET", link), timeout, http -> {
                var tooLarge = "larger than 1 GiB";
                long expected = http.header("Content-Length").filter(text -> text.matches("\\d{1,18}"))
                        .map(Long::parseLong).orElse(size);
                if (Math.max(expected, size) > MAX_FILE_BYTES) throw new Transport.Exceeded(tooLarge); // saves time
                to.truncate(0); // an earlier try may have left bytes
                long length = http.body(MAX_FILE_BYTES, tooLarge).transferTo(Channels.newOutputStream(to));
                if (size > 0 && length != size) throw new IOException("incomplete: got " + length + " of "
                        + size + " bytes");
                return to;
            });
        }

        Reply<JsonNode> fetch(String path) {
            return ask(get(path), QUERY_TIMEOUT, DifyClient::tree);
        }

        /// Sends `GET /info`, which starts no run, and adds the version from the response's header.
        Reply<JsonNode> info() {
            return ask(get("/info"), QUERY_TIMEOUT, http -> objectOf(http).put("version", http.version()));
        }

        // Requests and responses

        /// Encodes a part of a URL. `URLEncoder` encodes forms, where a space becomes `+`; in a
        /// path, it must be `%20`.
        static String encoded(String part) {
            return URLEncoder.encode(part, UTF_8).replace("+", "%20");
        }

        /// Builds a run's request. A chatflow's row gets its own conversation, so that no row sees
        /// the messages of another one. The conversation gets no name, which could cost a model
        /// call.
        byte[] body(Attempt attempt, Map<String, Value> inputs) {
            var sent = new LinkedHashMap<String, Object>();
            var body = object("inputs", sent);
            inputs.forEach((name, value) -> {
                if (value instanceof Value.Query(var text)) body.put("query", text);
                else if (value instanceof Value.Several files && files.isAttached()) body.put("files", json(files));
                else sent.put(name, json(value));
            });
            body.put("response_mode", attempt.mode() == Mode.STREAMING ? "streaming" : "blocking");
            body.put("user", attempt.user());
            if (app.hasConversations()) body.put("auto_generate_name", false);
            // a workflow's version is part of the URL instead, see [#startAddress]
            if (app == AppKind.CHATFLOW && !access.workflowId().isEmpty())
                body.put("workflow_id", access.workflowId());
            return Json.bytes(body);
        }

        /// Converts a cell's value to JSON. Only `check` shows a file that has no id yet.
        private static Object json(Value value) {
            return switch (value) {
                case Value.Str(var text) -> text;
                case Value.Raw(var json) -> new RawValue(json);
                case Value.Local local -> json(local.uploaded("<upload of " + local.file() + ">"));
                case Value.Several(var files, _) -> files.stream().map(DifyClient::json).toList();
                case Value.Query _, Value.None _, Value.Invalid _ -> null; // none of these is an input
            };
        }

        private BasicClassicHttpRequest get(String path) {
            return authorized("GET", access.at(path));
        }

        private BasicClassicHttpRequest post(URI address, String type, HttpEntity body) {
            var request = authorized("POST", address);
            request.setHeader("Content-Type", type);
            request.setEntity(body);
            return request;
        }

        private BasicClassicHttpRequest authorized(String method, URI address) {
            var request = new BasicClassicHttpRequest(method, address);
            request.setHeader("Authorization", "Bearer " + access.key());
            if (!access.appId().isEmpty()) request.setHeader("X-Dify-App-ID", access.appId());
            return request;
        }

        /// Sends a request that starts no run. A success with unexpected content
        /// counts as a refusal.
        private <T> Reply<T> ask(BasicClassicHttpRequest request, Duration limit,
                IOFunction<Transport.Exchange, T> reading) {
            return wire.exchange(request, limit, Symptom.NO_ANSWER, http -> {
                if (http.status() != 200 && http.status() != 201) // 201: an upload has created a file
                    return new Reply.NotGot<>(refused(http));
                try {
                    return new Reply.Got<>(reading.apply(http));
                } catch (JsonProcessingException problem) {
                    return new Reply.NotGot<>(Response.Refused.unexpected(Json.reason(problem)));
                }
            });
        }

        /// Parses a response. Text after the JSON may belong to a second response. Nesting beyond
        /// the parser's limit is reported as too large, because the JSON may be correct.
        private static JsonNode tree(Transport.Exchange http) throws IOException {
            if (http.is(Transport.Exchange.PAGE)) throw unexpected(PAGE);
            try {
                return http.masked(Json.read(json -> json.with(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
                        .readTree(http.body())));
            } catch (StreamConstraintsException problem) {
                throw new Transport.Exceeded("the response is " + Json.reason(problem));
            }
        }

        private static ObjectNode objectOf(Transport.Exchange http) throws IOException {
            if (tree(http) instanceof ObjectNode object) return object;
            throw unexpected("not a JSON object");
        }

        /// Reads a refusal: Dify's code and message, or the text of a proxy, but no HTML.
        private static Response.Refused refused(Transport.Exchange http) throws IOException {
            int status = http.status();
            var text = http.prefix();
            String code = "", message = text.stripLeading().startsWith("<") ? PAGE : text;
            // the message to the user contains the target of a redirection
            var error = http.masked(Json.parse(text));
            if (status >= 300 && status < 400) message = http.header("Location").orElse("nowhere");
            else if (error.isObject()) { // otherwise HTML or plain text
                code = RunReader.text(error, "code");
                message = RunReader.text(error, "message");
            }
            boolean isDify = !code.isEmpty() && !message.isEmpty() && error.path("status").asInt() == status;
            var author = http.isAtOnce() ? Response.Refused.Author.AT_ONCE : Response.Refused.Author.GATEWAY;
            if (isDify) author = Response.Refused.Author.DIFY;
            return Response.Refused.http(status, author, code, message, http.retryAfter());
        }

        sealed interface Reply<T> {
            record Got<T>(T value) implements Reply<T> {}

            /// @param response what happened instead: a refusal, a broken connection or a request
            ///                 that was not sent
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

            /// Returns whether a run with these inputs may belong to this request. If the record
            /// has a user, the user decides, because each attempt has its own. Otherwise, only text
            /// values are compared, because Dify may convert other values. Values that the workflow
            /// does not declare are missing in the record.
            boolean matches(JsonNode inputs, JsonNode query) {
                var stored = inputs.path("sys.user_id");
                if (stored.isTextual()) return stored.asText().equals(user);
                return values.entrySet().stream().allMatch(each -> switch (each.getValue()) {
                    case Value.Str(var text) -> isSame(text, inputs.path(each.getKey()));
                    case Value.Query(var text) -> isSame(text, query);
                    case Value.Raw _, Value.Local _, Value.Several _, Value.None _, Value.Invalid _ -> true;
                });
            }

            /// Compares texts. A stored value of another type counts as the same, because Dify may
            /// convert a value. Dify also removes NUL characters, and an unpaired surrogate cannot
            /// be sent.
            private static boolean isSame(String text, JsonNode stored) {
                return !stored.isTextual() || stored.asText().equals(Json.wellFormed(text).replace("\0", ""));
            }
        }
    }

    /// Reads one response, or the events of one stream. Keeps the content of earlier events,
    /// because later events do not repeat it.
    static final class RunReader {
        private JsonNode last = Json.MAPPER.missingNode(), metadata = last;
        private String runId = "", taskId = "", workflowId = "", conversation = "", messageId = "", currency = "";
        private final Map<String, BigDecimal> prices = new LinkedHashMap<>(); // by currency
        private boolean isPriceKnown = true; // false if a node reported a price that cannot be read
        private final StringBuilder answer = new StringBuilder(); // the text so far
        private boolean isReplaced = false; // whether moderation has replaced some of that text
        private boolean isAgents = false; // whether the text consists of an agent's pieces
        private final Map<String, JsonNode> thoughts = new LinkedHashMap<>(); // of an agent, by id
        private final AppKind app;

        RunReader(AppKind app) {
            this.app = app;
        }

        static String text(JsonNode from, String name) {
            return from.path(name).asText("");
        }

        /// Reads an event, a blocking response or a run's detail. The detail
        /// (`GET /workflows/run/{id}`) has the fields of `data` at the top level, so the caller
        /// must wrap it in `data`. Adds up the prices of nodes, because no event contains the price
        /// of the run.
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
                    Cost.price(paid).ifPresentOrElse(more -> prices.merge(currency, more, BigDecimal::add),
                            () -> isPriceKnown = false);
                }
                case "message_replace" -> {
                    isReplaced = true;
                    answer.setLength(0);
                    answer.append(text(last, "answer"));
                }
                case "message" -> {
                    if (isAgents) answer.setLength(0); // the new agent's whole answer follows its pieces
                    isAgents = false;
                    answer.append(text(last, "answer"));
                }
                case "agent_message" -> {
                    isAgents = true;
                    answer.append(text(last, "answer"));
                }
                // with the same id, it contains more
                case "agent_thought" -> thoughts.put(text(last, "id"), last);
                default -> {}
            }
        }

        /// Keeps the earlier text if an event lacks it, such as the run id of an `error` event.
        static String orIfEmpty(String text, String before) {
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

        /// Returns whether `data` is the run's own, and not of one of its nodes, whose `id` and
        /// `status` look alike. A blocking response of a workflow has no event.
        private boolean isOfRun() {
            return (event().isEmpty() || event().startsWith("workflow_")) && data().isObject();
        }

        /// Returns the id of the run. Without a run, it is the message's, except in
        /// `error` events, which lack a task.
        private String ownRunId() {
            if (!app.hasRuns()) return last.has("task_id") ? text(last, "message_id") : "";
            var id = text(last, "workflow_run_id");
            return id.isEmpty() && isOfRun() ? text(data(), "id") : id; // a run's detail has only the second one
        }

        /// Returns whether the last payload contains inputs that were not sent.
        boolean isForeign(DifyClient.SentInputs sent) {
            return isOfRun() && ofRun("inputs").filter(inputs -> !sent.matches(inputs)).isPresent();
        }

        /// Returns an object of the run, which may be stored as text (1.9.2). Returns empty for
        /// anything else.
        private Optional<ObjectNode> ofRun(String name) {
            var value = data().path(name);
            if (value.isTextual()) value = Json.parseLenient(value.textValue());
            return value instanceof ObjectNode object ? Optional.of(object) : Optional.empty();
        }

        /// Converts the last event. Events of later versions of Dify count as other events.
        StreamEvent streamEvent() {
            var data = data();
            return switch (event()) {
                case "node_started" -> new StreamEvent.NodeBegan(text(data, "title"), text(data, "node_type"));
                case "node_finished" -> new StreamEvent.NodeEnded(text(data, "title"), text(data, "node_type"),
                        text(data, "status"), data.path("elapsed_time").asDouble(0), text(data, "error"));
                case "text_chunk" -> new StreamEvent.Chunk(text(data, "text"));
                case "reasoning_chunk" -> new StreamEvent.Chunk(text(data, "reasoning"));
                case "human_input_required" -> form(data);
                case "human_input_form_timeout" -> new StreamEvent.FormExpired(text(data, "node_title"));
                case "message", "agent_message" -> new StreamEvent.Chunk(text(last, "answer"));
                // what was shown cannot be taken back, so the new text begins a line of its own
                case "message_replace" -> new StreamEvent.Chunk("\n" + text(last, "answer"));
                default -> new StreamEvent.OtherEvent();
            };
        }

        /// Returns the forms that the run of a blocking response waits for. A stream
        /// has an event for each.
        List<StreamEvent> forms() {
            return data().path("reasons").valueStream().filter(reason -> reason.has("form_id"))
                    .map(this::form).toList();
        }

        /// Reads a form of a Human Input node. A time that `Instant` or a calendar cannot hold
        /// counts as unknown.
        private StreamEvent form(JsonNode from) {
            return new StreamEvent.Form(runId, text(from, "node_title"), text(from, "form_token"),
                    time(from, "expiration_time"));
        }

        /// Reads a time in seconds. One that `Instant` or a calendar cannot hold counts as unknown.
        static Optional<Instant> time(JsonNode from, String name) {
            return Optional.of(from.path(name).asLong(0)).filter(time -> time > 0 && time < 1L << 40)
                    .map(Instant::ofEpochSecond);
        }

        /// Returns the price and its currency. One number cannot hold a price in two currencies.
        /// Models without a price report 0 in any currency.
        private Optional<Map.Entry<String, BigDecimal>> paid() {
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

        /// Returns the outcome if the last event ends the stream. Without a run id, such an event
        /// cannot be trusted. An `error` event without a status is treated as a server's error, so
        /// that its run is looked up.
        Optional<Response> end() {
            if (is("error")) return Optional.of(Response.Refused.event(last.path("status").asInt(500),
                    text(last, "code"), text(last, "message"), ref()));
            if (!is("workflow_finished") && !is("workflow_paused")) return Optional.empty();
            return ownRunId().isEmpty()
                    ? Optional.of(new Response.Cut(ref(), Symptom.CONTRADICTED, "the last event has no run id"))
                    : ran().map(Response.class::cast);
        }

        /// Reads the run's outcome from its last event, its blocking response or its detail.
        /// Returns empty if there is none, or a status that this version does not know.
        Optional<Response.Ran> ran() {
            if (!isOfRun() || runId.isEmpty()) return Optional.empty();
            var run = data();
            var cost = new Cost(run.path("total_tokens").asLong(0), paid().map(Map.Entry::getValue).orElse(null),
                    paid().map(Map.Entry::getKey).orElse(""));
            var usage = new Usage(run.path("elapsed_time").asDouble(0), run.path("total_steps").asInt(0), cost);
            var outputs = ofRun("outputs").orElseGet(Json.MAPPER::createObjectNode);
            return Response.RunStatus.of(text(run, "status")).map(status -> new Response.Ran(
                    new RunRef(runId, taskId), status, outputs, text(run, "error"), workflowId, usage));
        }

        /// Reads a chatflow's message. Its price is the price of the whole answer.
        private Response.ChatMessage message() {
            var cost = Cost.of(metadata.path("usage"));
            // then Dify has added up two currencies, or a price that cannot be read
            boolean isUnclear = !prices.isEmpty() && paid().isEmpty();
            return new Response.ChatMessage(conversation, messageId, isUnclear ? Cost.of(cost.tokens()) : cost);
        }

        /// Completes the outcome of a chatflow's streamed run. If moderation has replaced the
        /// answer, the run's outputs still contain the original text, which nobody was meant to
        /// see. If they have no answer, the run is looked up.
        Response completed(Response.Ran ran) {
            var outputs = Json.MAPPER.createObjectNode();
            outputs.setAll(ran.outputs());
            if (ran.status().isSuccess() && isReplaced) outputs.put("answer", answer.toString());
            if (ran.status().isSuccess() && !outputs.path("answer").isTextual())
                return new Response.Cut(Optional.of(ran.ref()), Symptom.CUT, "the run ended without an answer");
            return ran.with(message(), withSources(outputs, metadata));
        }

        /// Reads the answer of any app but a workflow. A blocking chatflow's response contains the
        /// run id only if the run waits for a person. Returns empty without an answer.
        Optional<Response.Ran> answered() {
            if (is("workflow_paused")) return ran().map(ran -> ran.with(message(), ran.outputs()));
            if (event().isEmpty()) answer.append(text(last, "answer")); // otherwise [#add] has added it
            var usage = metadata.path("usage");
            boolean hasEnded = app.hasRuns() || !messageId.isEmpty() && hasMetadata();
            var kind = AnswerState.of(app, answer.toString(), hasEnded, isIncomplete(usage));
            if (!hasEnded || kind == AnswerState.PENDING) return Optional.empty();
            var outputs = Json.MAPPER.createObjectNode().put("answer", answer.toString());
            // 0, because a chatflow's response lacks the run's time; its `latency` is the model's
            var ran = Response.Ran.answered(withThoughts(withSources(outputs, metadata), thoughts.values()),
                    app.hasRuns() ? 0 : usage.path("latency").asDouble(0), message());
            return Optional.of(kind == AnswerState.STOPPED ? ran.stopped() : ran);
        }

        /// Returns whether the answer ended early. Dify reports a task that was stopped or exceeded
        /// the server's time limit like a success, but counts no tokens, although the model has a
        /// price or (chatflows) was at work (`llm_time_limit.json`). Without a price, maybe no
        /// model was asked (`chat_blocking_moderated.json`).
        private boolean isIncomplete(JsonNode usage) {
            var signs = app.hasRuns() ? List.of("time_to_generate")
                    : List.of("prompt_unit_price", "completion_unit_price");
            return usage.path("total_tokens").asInt(1) == 0
                    && signs.stream().anyMatch(name -> usage.path(name).asDouble(0) > 0);
        }

        /// Adds the calls of an agent's tools to its outputs.
        static ObjectNode withThoughts(ObjectNode outputs, Collection<JsonNode> thoughts) {
            for (var thought : thoughts)
                if (!text(thought, "tool").isEmpty())
                    outputs.withArray("thoughts").addObject().put("tool", text(thought, "tool"))
                            .put("input", text(thought, "tool_input")).put("observation", text(thought, "observation"));
            return outputs;
        }

        /// Adds a chatflow's sources to its outputs. Removes an empty list of files, which streams
        /// and records have but blocking responses lack.
        static ObjectNode withSources(ObjectNode outputs, JsonNode from) {
            if (outputs.path("files").isEmpty()) outputs.remove("files");
            var sources = from.path("retriever_resources");
            if (!sources.isEmpty()) outputs.set("retriever_resources", sources);
            return outputs;
        }

        /// Interprets the detail of a run that was looked up. A status that this version does not
        /// know counts as active, because the run may not have ended.
        ///
        /// @param now the time on the server's clock
        LookUpResult result(RunRef asked, Instant now) {
            taskId = asked.task(); // the detail lacks it
            var status = Response.RunStatus.of(text(data(), "status")).orElse(Response.RunStatus.RUNNING);
            if (status.isSuccess() && isDamaged()) return new LookUpResult.Inconclusive(new Response.Unreadable(
                    Optional.of(asked), "Dify's record of the outputs is damaged"));
            return switch (status) {
                // after 1.16.1, Dify moves a run at most 20 times, for up to 600 s each
                case RUNNING, PAUSED -> new LookUpResult.Running(ref().orElse(asked), status, age(now), Duration
                        .ofSeconds(Math.clamp(data().path("handoff_duration").asLong(0), 0, 20 * 600)));
                case SUCCEEDED, PARTIAL, FAILED, STOPPED -> new LookUpResult.Ended(ran().orElseThrow(),
                        sentCells(ofRun("inputs").orElseGet(Json.MAPPER::createObjectNode)),
                        time(data(), "finished_at"));
            };
        }

        /// Returns how long ago the run started, or empty if Dify does not report it. It is at
        /// least 0, even if the clocks differ.
        private Optional<Duration> age(Instant now) {
            long start = data().path("created_at").asLong(0);
            if (start <= 0) return Optional.empty();
            return Optional.of(Duration.ofSeconds(Math.max(0, now.getEpochSecond() - start)));
        }

        /// Returns whether the outputs are text but not the JSON of an object. Dify 1.9.2 cuts long
        /// outputs like this. An empty text and `null` count as no outputs.
        private boolean isDamaged() {
            var text = text(data(), "outputs");
            return data().path("outputs").isTextual() && !text.isBlank() && !text.equals("null")
                    && ofRun("outputs").isEmpty();
        }

        /// Returns the inputs in Dify's record as cells, without those that Dify adds. A chatflow's
        /// question is stored as `sys.query`, but is the cell `query`.
        static Map<String, String> sentCells(JsonNode inputs) {
            var cells = new LinkedHashMap<String, String>();
            inputs.properties().forEach(each -> {
                var name = each.getKey().equals("sys.query") ? "query" : each.getKey();
                var value = each.getValue();
                // null for a variable that was not sent
                if (!name.startsWith("sys.") && !value.isNull())
                    cells.put(name, value.isValueNode() ? value.asText() : value.toString());
            });
            return cells;
        }
    }

    /// Says what an answer's text shows, in a response or a stored message:
    ///
    /// | app has runs | text | its row has ended | without tokens | answer |
    /// | --- | --- | --- | --- | --- |
    /// | yes | empty | any | any | `PENDING`: it may follow, or the run was stopped |
    /// | any | any | any | yes | `STOPPED`: it ended early |
    /// | any | not empty | any | no | `COMPLETE`, because Dify stores a text only at the row's end |
    /// | no | empty | yes | no | `EMPTY`: in a look-up, it may be torn, see [LookUpRules] |
    /// | no | empty | no | no | `PENDING`: only a last thought may have the text |
    enum AnswerState {
        COMPLETE, EMPTY, STOPPED, PENDING;

        static AnswerState of(AppKind app, String text, boolean hasEnded, boolean isUncounted) {
            if (app.hasRuns() && text.isEmpty()) return PENDING;
            if (isUncounted) return STOPPED;
            if (!text.isEmpty()) return COMPLETE;
            return hasEnded ? EMPTY : PENDING;
        }
    }

    /// Holds the message of an app's row as the server has stored it, or a missing node.
    record StoredMessage(JsonNode message, AppKind app) {
        private String text(String name) {
            return RunReader.text(message, name);
        }

        /// Returns the run of a message that has waited for a person, or empty for other messages.
        /// Only forms contain the id of their run.
        Optional<RunRef> pausedRun() {
            return message.path("extra_contents").valueStream()
                    .map(extra -> RunReader.text(extra, "workflow_run_id")).filter(id -> !id.isEmpty())
                    .findFirst().map(id -> new RunRef(id, ""));
        }

        /// Completes a run's success with its message, whose text counts because moderation may
        /// have replaced the run's. The run's own answer counts if the message may contain only a
        /// part of it (after a pause), or none (up to 1.10, if the stream's client disconnected).
        LookUpResult completing(LookUpResult found) {
            if (!(found instanceof LookUpResult.Ended(var ran, var inputs, var at)) || !ran.status().isSuccess())
                return found;
            var outputs = Json.MAPPER.createObjectNode();
            outputs.setAll(ran.outputs());
            if (!text("answer").isEmpty() && pausedRun().isEmpty()) outputs.put("answer", text("answer"));
            return new LookUpResult.Ended(ran.with(chat(), RunReader.withSources(outputs, message)), inputs, at);
        }

        /// Returns the outcome. Since 1.16, a message has a time when its row has ended.
        LookUpResult result() {
            var sent = RunReader.sentCells(message.path("inputs"));
            if (message.path("query").isTextual()) sent.put("query", text("query"));
            if (text("status").equals("error"))
                return new LookUpResult.Ended(Response.Ran.failed(text("error")), sent, Optional.empty());
            double seconds = message.path("provider_response_latency").asDouble(0);
            var outputs = Json.MAPPER.createObjectNode().put("answer", text("answer"));
            boolean isUncounted = !app.hasRuns() && seconds > 0 && message.path("total_tokens").asInt(1) == 0;
            var kind = AnswerState.of(app, text("answer"), seconds > 0, isUncounted);
            if (kind == AnswerState.PENDING && lastThought().isPresent())
                outputs.put("answer", lastThought().get()).put("from_thoughts", true);
            else if (kind == AnswerState.PENDING || text("status").equals("paused"))
                return new LookUpResult.Unanswered(seconds > 0);
            var ran = Response.Ran.answered(RunReader.withThoughts(RunReader.withSources(outputs, message),
                    message.path("agent_thoughts").valueStream().toList()), seconds, chat());
            return new LookUpResult.Ended(kind == AnswerState.STOPPED ? ran.stopped() : ran, sent, Optional.empty());
        }

        /// Returns the answer of an old agent whose stream's client has disconnected.
        /// Dify then stores it only as the last thought, which is complete if it calls
        /// no tool. Earlier thoughts precede it, as in a stored answer. The new
        /// agent's thoughts may be incomplete, and Dify deletes them.
        private Optional<String> lastThought() {
            var thoughts = message.path("agent_thoughts").valueStream()
                    .sorted(Comparator.comparingInt(thought -> thought.path("position").asInt())).toList();
            boolean isAnswer = app == AppKind.AGENT_CHAT && !thoughts.isEmpty()
                    && RunReader.text(thoughts.getLast(), "tool").isEmpty()
                    && !RunReader.text(thoughts.getLast(), "thought").isEmpty();
            if (!isAnswer) return Optional.empty();
            return Optional.of(thoughts.stream().map(thought ->
                    RunReader.orIfEmpty(RunReader.text(thought, "answer"), RunReader.text(thought, "thought")))
                    .filter(text -> !text.isEmpty()).collect(joining("\n")));
        }

        private Response.ChatMessage chat() {
            return new Response.ChatMessage(text("conversation_id"), text("id"), Cost.of(message));
        }
    }

    /// Speaks HTTP/1.1 to Dify: sends one request at a time and reads its response. Any failure
    /// becomes a [Response]. The phase of the exchange decides which one:
    ///
    /// | phase | meaning of a failure |
    /// | --- | --- |
    /// | until there is a connection | the request was not sent |
    /// | from its first byte to the end of the response's header | it was perhaps sent, and there is no response |
    /// | after the header | the response broke off, is too large or cannot be understood |
    ///
    /// If a stream's request gets an error instead of a stream, it depends on who answered, and
    /// after how long, what this shows about the request's job:
    ///
    /// | who answered | what it shows |
    /// | --- | --- |
    /// | Dify: JSON with its code, message and status | the job was queued by then or never will be |
    /// | a proxy, within a second: 500, 502, 504 | the same, because nothing is behind the proxy |
    /// | a proxy, within a second: 503 | Dify did not get the request |
    /// | a gateway, later: 5xx, a page | nothing: it gave up waiting, and a worker may have the job |
    /// | nobody: the connection broke | nothing |
    ///
    /// A connection is never used again. A request would be lost if the server closed it just then,
    /// and its run would be unknown. If a broken proxy sent one response too many, each later row
    /// would get the response to an earlier one.
    static final class Transport implements AutoCloseable {
        /// Without this limit, the operating system waits for minutes if a host does
        /// not respond at all.
        private static final int CONNECT_MILLIS = 20_000;
        /// After this much silence, a stream's run is looked up. During a run, Dify
        /// sends a ping every 10 s.
        static final Duration QUIET = Duration.ofSeconds(30);
        /// Limits the part of a refusal that is read. Dify 1.14 and later may quote
        /// the whole request, of any size.
        private static final int REFUSAL_BYTES = 64 << 10;
        /// Sets how often the time limits of responses are checked, so each may be exceeded by
        /// that.
        private static final int TICK_MILLIS = 100;
        private static final Pattern CERTIFICATE = Pattern.compile(
                "-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----");
        private static final int CA_FILE_BYTES = 16 << 20; // a device has no end
        private static final int SPARE_FILES = 32; // of a session besides its connections, libraries included
        /// Limits the headers of a response, and the memory of a connection.
        private static final Http1Config HTTP = Http1Config.custom().setMaxLineLength(1 << 16).setMaxHeaderCount(1000)
                .setBufferSize(4096).build();

        /// Limits a response, in bytes. While it is read, it takes up to ten times as much memory.
        private final long maxBytes;
        private final Secret secret;
        private final Duration quiet, atOnce;
        private final Optional<URI> proxy;
        private final Optional<String> proxyLogin;
        private final Optional<SSLSocketFactory> trusted; // empty: only the system's authorities
        private final Set<Exchange> open = ConcurrentHashMap.newKeySet();
        private final ScheduledExecutorService clock = Executors.newSingleThreadScheduledExecutor(
                Thread.ofPlatform().daemon().name("watches").factory());

        /// @param quiet  the silence after which a stream is reported
        /// @param atOnce the time within which a gateway that gave up waiting does not answer
        Transport(Access access, long maxBytes, Duration quiet, Duration atOnce) {
            this.maxBytes = maxBytes;
            this.secret = new Secret(access.key());
            this.quiet = quiet;
            this.atOnce = atOnce;
            this.proxy = access.proxy();
            this.proxyLogin = proxy.map(URI::getUserInfo).map(login -> "Basic " + Base64.getEncoder().encodeToString(
                    (login.contains(":") ? login : login + ":").getBytes(UTF_8)));
            this.trusted = access.caFile().map(Transport::trusting);
            Thread.startVirtualThread(() -> Json.MAPPER.reader()); // loads it while the caller reads its files
            clock.scheduleWithFixedDelay(() -> open.forEach(Exchange::tick), TICK_MILLIS, TICK_MILLIS, MILLISECONDS);
        }

        /// Returns the bytes that each of several runs may have in its response, so that all of
        /// them fit into memory at ten times their size, see [#maxBytes]. At least 1 MiB is
        /// allowed. Otherwise, with a small heap and a high `-c`, hardly any response would be
        /// accepted.
        static long share(int runs) {
            return Math.max(1 << 20, Runtime.getRuntime().maxMemory() / (10L * runs));
        }

        /// Rejects a number of runs for which the system allows too few open files. Without them,
        /// Java can neither load classes nor wait for sockets.
        static void requireSockets(int runs) {
            var opened = new ArrayList<SocketChannel>();
            boolean isLimited = false;
            try {
                for (int i = 0; i < runs + SPARE_FILES; i++) opened.add(SocketChannel.open());
            } catch (IOException _) {
                isLimited = true;
            }
            for (var socket : opened) Closer.closeQuietly(socket); // before the message, whose classes need files, too
            if (isLimited) throw new Unusable("the system allows too few open files for " + Text.count(runs, "run")
                    + " at a time", "lower -c, or raise the limit: ulimit -n " + (runs + 200));
        }

        /// Trusts the certificates of a file beside the system's, because outputs
        /// can link to public servers.
        private static SSLSocketFactory trusting(Env.Setting setting) {
            try (var in = Files.newInputStream(Path.of(setting.text()))) {
                var text = new String(in.readNBytes(CA_FILE_BYTES), ISO_8859_1);
                // other parts of the file, such as a private key, are skipped, as other programs do
                var blocks = CERTIFICATE.matcher(text).results().map(MatchResult::group).collect(joining("\n"));
                var own = CertificateFactory.getInstance("X.509").generateCertificates(
                        new ByteArrayInputStream(blocks.getBytes(ISO_8859_1)));
                if (own.isEmpty()) throw new CertificateException("contains no certificate in PEM form");
                var store = KeyStore.getInstance(KeyStore.getDefaultType());
                store.load(null, null);
                var factory = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
                factory.init((KeyStore) null);
                var system = ((X509TrustManager) factory.getTrustManagers()[0]).getAcceptedIssuers();
                for (var authority : Stream.concat(own.stream(), Stream.of(system)).toList())
                    store.setCertificateEntry("authority" + store.size(), authority);
                factory.init(store);
                var context = SSLContext.getInstance("TLS");
                context.init(null, factory.getTrustManagers(), null);
                return context.getSocketFactory();
            } catch (IOException | GeneralSecurityException | InvalidPathException problem) {
                // without the setting's text, because a key may have been pasted
                // into the wrong line
                throw new Unusable(setting.place() + ": " + Text.reason(problem).replace(setting.text(), "…"),
                        "set it to a file with the certificate of the authority (-----BEGIN CERTIFICATE-----)");
            }
        }

        @Override
        public void close() {
            clock.shutdownNow();
            open.forEach(Exchange::drop);
        }

        /// @param limit the time until the response's header, and until its end
        ///              unless the reader sets another limit
        /// @param timeoutSymptom the symptom to report when the limit passes
        <T> DifyClient.Reply<T> exchange(BasicClassicHttpRequest request, Duration limit, Symptom timeoutSymptom,
                IOFunction<Exchange, DifyClient.Reply<T>> reading) {
            try (var http = new Exchange(limit)) {
                try {
                    if (!http.connect(request)) return new DifyClient.Reply.NotGot<>(notPassedOn(http.status()));
                } catch (IOException problem) {
                    return new DifyClient.Reply.NotGot<>(notSent(problem, http.isOver));
                }
                try {
                    http.send(request);
                } catch (IOException problem) {
                    return new DifyClient.Reply.NotGot<>(http.isOver
                            ? new Response.Cut(timeoutSymptom, "no response within " + Text.seconds(limit))
                            : new Response.Cut(Symptom.NO_ANSWER,
                                    "the connection broke before a response (" + Text.reason(problem) + ")"));
                }
                // without TLS, the proxy gets the request itself, and has not passed it on
                if (http.status() == 407 && proxy.isPresent())
                    return new DifyClient.Reply.NotGot<>(notPassedOn(http.status()));
                try {
                    return reading.apply(http);
                } catch (IOException problem) {
                    // a stream that is too large is looked up instead, because its
                    // run may still be active
                    return new DifyClient.Reply.NotGot<>(problem instanceof Exceeded && !http.is(Exchange.STREAM)
                            ? new Response.Unreadable(Optional.empty(), problem.getMessage())
                            : http.cut(timeoutSymptom, "the connection broke in the middle of the response ("
                                    + Text.reason(problem) + ")"));
                }
            }
        }

        /// Describes why there was no connection. Some causes recur until a setting changes, so the
        /// batch stops. For some of them, only Java's messages decide.
        private Response.NotSent notSent(IOException problem, boolean isOver) {
            var through = proxy.map(by -> ", through the proxy " + by.getHost()).orElse("");
            for (Throwable cause = problem; cause != null; cause = cause.getCause()) {
                var words = Objects.requireNonNullElse(cause.getMessage(), "");
                if (cause instanceof CertPathBuilderException)
                    return new Response.NotSent("the server's certificate is not trusted" + through,
                            "DIFY_CA_FILE can add the authority that issued it");
                if (cause instanceof CertificateExpiredException || cause instanceof CertificateNotYetValidException)
                    return new Response.NotSent("the server's certificate is not valid at this time" + through,
                            "renew it, or set the clock of this machine");
                if (cause instanceof CertificateException && words.startsWith("No ")) // such as "No name matching …"
                    return new Response.NotSent("the server's certificate is for another host" + through,
                            "set DIFY_API_BASE_URL to the host that the certificate names");
                if (cause instanceof SSLException && words.contains("recognized SSL message")) // or "unrecognized …"
                    return new Response.NotSent("the server answers without TLS" + through,
                            "set DIFY_API_BASE_URL to http://, or to the server's https port");
                // may pass, as when the server restarts, so it is no reason to stop
                if (cause instanceof SSLHandshakeException && words.contains("terminated the handshake")
                        || words.equals("Read timed out")) return new Response.NotSent("TLS did not begin; if the "
                                + "server has none, set DIFY_API_BASE_URL to http://" + through, "");
            }
            boolean isLate = isOver || problem instanceof SocketTimeoutException;
            return new Response.NotSent((isLate ? "no connection in time" : Text.reason(problem)) + through, "");
        }

        /// Describes a proxy's own response. A 5xx may pass if the proxy does not reach the server.
        private Response.NotSent notPassedOn(int status) {
            var by = "the proxy " + proxy.orElseThrow().getHost();
            if (status == 407) return new Response.NotSent(by + " asks for a user name and a password, or rejects them",
                    "set HTTPS_PROXY or HTTP_PROXY to http://USER:PASSWORD@HOST:PORT");
            return new Response.NotSent(by + " does not connect to the server (HTTP " + status + ")",
                    status >= 500 ? "" : "allow the server in the proxy, or add its host to NO_PROXY");
        }

        /// Makes one exchange within a time limit. The clock's thread drops it when that is over.
        final class Exchange implements AutoCloseable {
            static final String STREAM = "text/event-stream", PAGE = "text/html";

            private final DefaultBHttpClientConnection connection = new DefaultBHttpClientConnection(HTTP);
            private volatile Socket socket; // the lowest layer of the connection; null until it is opened
            private volatile long end, lastByte; // nanoseconds, as in System.nanoTime
            volatile boolean isOver = false; // true after the time limit passed
            private volatile Consumer<StreamEvent> heard;
            private volatile Optional<RunRef> run = Optional.empty();
            private ClassicHttpResponse head; // null until it has arrived
            private boolean isAtOnce = false; // true if it arrived within `atOnce` of the request
            private BufferedReader lines; // null unless events are read
            private long left; // bytes that may still be read

            Exchange(Duration limit) {
                limit(limit);
                open.add(this);
            }

            /// Connects to the server. Returns false if the proxy refuses to. Only a channel's
            /// socket ends its waits at an interrupt.
            boolean connect(BasicClassicHttpRequest request) throws IOException {
                boolean isSecure = request.getScheme().equals("https");
                var host = request.getAuthority().getHostName();
                int port = port(request.getAuthority().getPort(), isSecure);
                socket = SocketChannel.open().socket();
                if (clock.isShutdown()) throw new ClosedChannelException();
                socket.setTcpNoDelay(true);
                socket.setSoTimeout(CONNECT_MILLIS);
                socket.connect(proxy.map(by -> new InetSocketAddress(by.getHost(), port(by.getPort(), false)))
                        .orElseGet(() -> new InetSocketAddress(host, port)), CONNECT_MILLIS);
                connection.bind(socket);
                if (proxy.isPresent() && isSecure) {
                    var tunnel = new BasicClassicHttpRequest("CONNECT", null, request.getAuthority(),
                            host + ":" + port);
                    proxyLogin.ifPresent(login -> tunnel.setHeader("Proxy-Authorization", login));
                    send(tunnel);
                    if (status() / 100 != 2) return false;
                } else if (proxy.isPresent()) {
                    request.setAbsoluteRequestUri(true);
                    proxyLogin.ifPresent(login -> request.setHeader("Proxy-Authorization", login));
                }
                if (isSecure) encrypt(host.replaceAll("[\\[\\]]", ""), port); // an IPv6 address is in brackets
                socket.setSoTimeout(0); // from now on, only the time limit counts
                return true;
            }

            private static int port(int typed, boolean isSecure) {
                int standard = isSecure ? 443 : 80;
                return typed < 0 ? standard : typed;
            }

            private void encrypt(String host, int port) throws IOException {
                var factory = trusted.orElseGet(() -> (SSLSocketFactory) SSLSocketFactory.getDefault());
                var tls = (SSLSocket) factory.createSocket(socket, host, port, true);
                var parameters = tls.getSSLParameters();
                parameters.setEndpointIdentificationAlgorithm("HTTPS"); // otherwise any trusted certificate would do
                tls.setSSLParameters(parameters);
                tls.startHandshake();
                connection.bind(tls, socket);
            }

            /// Sends the request and reads the header of its response. Interim
            /// responses are skipped.
            void send(BasicClassicHttpRequest request) throws IOException {
                request.setHeader("Host", new HttpHost(request.getScheme(), request.getAuthority()).toHostString());
                request.setHeader("User-Agent", "difyexec/" + VERSION);
                var body = request.getEntity();
                if (body != null) request.setHeader("Content-Length", body.getContentLength());
                long start = System.nanoTime();
                try {
                    head = new HttpRequestExecutor().execute(request, connection, HttpCoreContext.create());
                } catch (HttpException problem) { // the header is malformed
                    throw new IOException(problem);
                }
                isAtOnce = System.nanoTime() - start <= atOnce.toNanos();
            }

            int status() {
                return head.getCode();
            }

            boolean isAtOnce() {
                return isAtOnce;
            }

            boolean is(String type) {
                return header("Content-Type").orElse("").startsWith(type);
            }

            /// Returns Dify's version, or an empty text if a proxy in front of Dify has responded.
            String version() {
                return header("X-Version").orElse("");
            }

            Optional<String> header(String name) {
                return Optional.ofNullable(head.getFirstHeader(name)).map(NameValuePair::getValue).map(String::strip)
                        .map(secret::maskKey);
            }

            /// Masks the API key. Every text of a server passes this, [#header] or
            /// [#prefix], and no other place.
            JsonNode masked(JsonNode json) {
                return secret.maskKey(json);
            }

            /// Returns the wait that the server asks for, as seconds or an HTTP date. Returns empty
            /// for anything else, so that the back-off decides how long to wait.
            Optional<Duration> retryAfter() {
                // nine digits are 30 years; more could exceed the range of a time
                return header("Retry-After").filter(text -> text.matches("\\d{1,9}")).map(Long::parseLong)
                        .map(Duration::ofSeconds).or(() -> date("Retry-After")
                                .map(until -> Duration.between(Instant.now(), until)).filter(Duration::isPositive));
            }

            /// Returns the time in a header. A header that cannot be read counts as missing.
            Optional<Instant> date(String name) {
                try {
                    return header(name).map(DateTimeFormatter.RFC_1123_DATE_TIME::parse).map(Instant::from);
                } catch (DateTimeException _) {
                    return Optional.empty();
                }
            }

            Optional<RunRef> run() {
                return run;
            }

            InputStream body() throws IOException {
                return body(maxBytes, "the response is too large for the available memory; lower -c, or set "
                        + "JDK_JAVA_OPTIONS=-Xmx4g");
            }

            /// Returns the body, which fails with `tooLarge` after a number of bytes. A ping keeps
            /// a stream alive although it is not an event.
            InputStream body(long most, String tooLarge) throws IOException {
                left = most;
                var content = head.getEntity() == null ? InputStream.nullInputStream() : head.getEntity().getContent();
                return new FilterInputStream(content) {
                    @Override
                    public int read(byte[] into, int from, int length) throws IOException {
                        int count = super.read(into, from, length);
                        lastByte = System.nanoTime();
                        left -= Math.max(0, count);
                        if (left < 0) throw new Exceeded(tooLarge);
                        return count;
                    }

                    @Override
                    public void close() {}
                };
            }

            /// Returns the text of a refusal. If it is empty and has no length, the header may have
            /// been cut off, which Apache's parser accepts.
            String prefix() throws IOException {
                var text = new String(body(Long.MAX_VALUE, "").readNBytes(REFUSAL_BYTES), UTF_8);
                var entity = head.getEntity();
                if (text.isEmpty() && entity != null && !entity.isChunked() && entity.getContentLength() < 0)
                    throw new EOFException("no body");
                return secret.maskKey(text);
            }

            /// Returns the next event that can be read, and skips events that were cut off. Returns
            /// empty if the stream has ended.
            Optional<JsonNode> event() throws IOException {
                if (lines == null) lines = new BufferedReader(new InputStreamReader(body(), UTF_8));
                while (true) {
                    left = maxBytes; // the limit applies to each event, because a long run has many
                    var data = Transport.event(lines);
                    if (data.isEmpty()) return Optional.empty();
                    var event = Json.parseLenient(data.get());
                    // otherwise the run is looked up if its final event does not follow
                    if (!event.isMissingNode()) return Optional.of(masked(event));
                }
            }

            boolean hasBufferedBytes() throws IOException {
                return lines.ready();
            }

            void limit(Duration limit) {
                end = System.nanoTime() + limit.toNanos();
            }

            /// Starts the second phase of a stream, in which another time limit applies and silence
            /// is reported. The run is set after the fields that [#tick] then reads.
            void began(RunRef run, Duration limit, Consumer<StreamEvent> heard) {
                this.lastByte = System.nanoTime();
                this.heard = heard;
                this.run = Optional.of(run);
                limit(limit);
                heard.accept(new StreamEvent.Began(run));
            }

            /// Drops the connection if the time is over, which wakes up its reader.
            /// Reports a silent stream.
            void tick() {
                try {
                    long now = System.nanoTime();
                    if (now - end >= 0) {
                        isOver = true;
                        drop();
                    } else if (run.isPresent() && now - lastByte >= quiet.toNanos()) {
                        lastByte = now; // so that the next report follows after the same time
                        heard.accept(new StreamEvent.Idle(run.get()));
                    }
                } catch (RuntimeException | Error _) {
                    drop(); // otherwise the clock would stop, and no response would have a time limit any more
                }
            }

            /// Creates the result for a body that ended early. `why` is the reason,
            /// unless the time limit ended it.
            ///
            /// @param silence the symptom if the limit was over before the first event
            Response.Cut cut(Symptom silence, String why) {
                if (!isOver) return new Response.Cut(run, Symptom.CUT, why);
                var symptom = run.isPresent() ? Symptom.TIMED_OUT : silence;
                return new Response.Cut(run, symptom, "the response was incomplete at the time limit");
            }

            /// Ends every read and write at once. Closes only the lowest layer,
            /// because TLS would wait for a write.
            void drop() {
                try {
                    if (socket != null) socket.close();
                } catch (IOException _) {
                    // nobody uses it any more
                }
            }

            @Override
            public void close() {
                open.remove(this);
                drop();
            }
        }

        /// Returns the data of the next server-sent event, or empty if the stream has ended. Its
        /// last event may be cut off. It is returned as well, because only the empty line after it
        /// may be missing; callers skip invalid JSON. A ping has no `data:` line, and later
        /// versions of Dify add `id:` lines, so all other lines are skipped.
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

    // ── Batch ────────────────────────────────────────────────────────────────
    //
    // - entry: the number of an id in the index. For an id of the CSV, it is also the row's number.
    // - unresolved: a row may have been sent, and its outcome must be looked up before it may be
    //   sent again.
    // - doubtful: the results have become shorter, so the server's empty list does not show that
    //   nothing was started.
    // - resent: a row was sent again while no run of an earlier attempt was known.
    // - late: the run of such an earlier attempt appeared after all, so the row may have been paid
    //   for twice.
    // - torn: a last line that is incomplete because of a crash or a full disk.

    // Batch: what the files contain

    /// Holds everything known about a batch, from its files and, if there is one, the CSV.
    /// `offsets` take 16 bytes per line, so they are filled only for commands that show single
    /// rows.
    record Batch(BatchFiles files, Optional<Csv> csv, Index index, History history, LineOffsets offsets) {
        /// Receives each line that counts while the files are read, so that they need not be read a
        /// second time.
        interface Listener {
            /// Receives a success. `line` is valid only during the call.
            void result(int entry, Lines line) throws IOException;

            /// Receives an event of the log. `at` is the offset of its line in the file.
            default void event(Index index, Event event, long at) {}
        }

        /// Reads the files without their lock, while another process may be writing them. A row
        /// whose result is written after the results were read still counts as in flight.
        ///
        /// @param showsRows whether single rows will be shown, for which the offsets of their lines
        ///                  are kept
        static Batch peek(BatchFiles files, Optional<Csv> whole, boolean showsRows, List<Listener> also) {
            var csv = whole.map(all -> all.with(files.shard()));
            var offsets = new LineOffsets();
            var listeners = Stream.concat(showsRows ? Stream.of(offsets) : Stream.empty(),
                    also.stream()).toList();
            return Storage.naming(files.results(), () -> {
                var index = readIndex(files, csv);
                var history = History.of(files, index, listeners);
                // if it is less than the log recorded, lines were lost
                history.noteResultsSize(files.resultsSize());
                if (!files.hasLog()) history.unreadable().ifPresent(lines -> {
                    throw new Unusable(lines, "restore the results; if they were joined from shards, join them again "
                            + "after the last shard has ended");
                });
                return new Batch(files, csv, index, history, offsets);
            });
        }

        /// Returns a batch of these rows as if none had run.
        static Batch ofRows(BatchFiles files, Csv whole) {
            var csv = whole.with(files.shard());
            var index = Storage.naming(files.results(), () -> readIndex(files, Optional.of(csv)));
            return new Batch(files, Optional.of(csv), index, new History(index), new LineOffsets());
        }

        Figures figures() {
            return history.figures;
        }

        /// Reads the ids of the CSV. Reading a CSV can take long, so files of another program are
        /// rejected first. Only the retry list is checked afterwards, because the ids show whether
        /// it is ours. Without a CSV, the index stays empty until the files are read.
        static Index readIndex(BatchFiles files, Optional<Csv> csv) throws IOException {
            files.requireOurs();
            if (csv.isEmpty()) return new Index();
            var index = Index.of(csv.get(), _ -> {});
            files.requireOurs(index);
            return index;
        }

        /// Returns the files of the batch and the inputs of all its sessions, which
        /// no output may overwrite.
        List<Path> kept() {
            var kept = new LinkedHashSet<Path>();
            Event.scanSessions(files.log(), session -> session.csv().file(files.results()).filter(Files::isRegularFile)
                    .ifPresent(kept::add));
            csv.ifPresent(known -> kept.add(known.file().input()));
            kept.addAll(files.all());
            return List.copyOf(kept);
        }

        /// Refuses a CSV with none of the batch's rows. All of its rows would run, and the results
        /// would belong to two files.
        ///
        /// @param hint continues the hint with an option that accepts the CSV, if
        ///             the command has one
        void refuseOtherFile(Path input, String hint) {
            long others = index.size() - index.rows();
            // without other ids, the rows have no lines because none of them has run yet
            boolean isOther = others > 0 && IntStream.range(0, index.rows()).noneMatch(history::hasLines);
            if (isOther) throw new Unusable(input + ": " + files.results() + " has "
                    + Text.count(others, "id") + ", and none of them is in this file (first: "
                    + Text.id(index.id(index.rows())) + ")", "check that this is the right CSV" + hint);
        }

        /// Returns the wanted rows, or none if there is no CSV. The hashes make sure that no row
        /// has changed since the index was made.
        Iterator<Row> rows(IntPredicate wanted) {
            var entries = entrySet(IntStream.range(0, index.rows()).filter(wanted));
            return csv.map(known -> known.rows(entries, index::fingerprint)).orElse(Collections.emptyIterator());
        }

        /// Returns the entry of a row. For an unknown id, suggests up to three that differ in at
        /// most half of its letters.
        ///
        /// @param where begins the message, such as `--ids: `
        int requireEntry(String id, String where) {
            int entry = index.find(id);
            if (index.isRow(entry)) return entry;
            var near = Nearest.of(id, IntStream.range(0, index.rows()).mapToObj(index::id),
                    Math.max(2, id.length() / 2), 3); // at least 2, so that r1 suggests r-001
            throw new Unusable(where + "no row of the input has the id " + Text.quoted(id),
                    near.isEmpty() ? "see the ids in the input" : near.stream().map(Text::id).collect(
                            joining(", ", "did you mean ", "?")));
        }

        /// Describes the rows of a session.
        ///
        /// @param ids   the ids given to `retry` or by `--ids`; empty for all rows
        ///              or those in `.retry`
        /// @param limit the largest number of rows
        /// @param seed  if present, the rows are chosen at random; otherwise they
        ///              are the first in the CSV
        record Selection(Set<Choice> choices, List<String> ids, long limit, OptionalLong seed) {
            /// Holds what `run` selects without options, and `retry` without ids.
            /// Neither has a limit.
            static final Selection PENDING = new Selection(Set.of(), List.of(), Long.MAX_VALUE, OptionalLong.empty()),
                    LISTED = PENDING.with(Choice.LISTED, true);

            /// Lists what may be chosen:
            ///
            /// - `LISTED`: the rows in `.retry` instead of all rows
            /// - `NAMED`: the rows with the ids given to `retry`
            /// - `AGAIN`: also the given rows that have succeeded
            /// - `RERUN_CHANGED`: also succeeded rows that have changed in the CSV since then
            /// - `RESEND_UNKNOWN`: rows with an unknown outcome are sent again, which may pay twice
            enum Choice { LISTED, NAMED, AGAIN, RERUN_CHANGED, RESEND_UNKNOWN }

            /// Selects rows to be retried. A user who types an id has decided to send its row
            /// again, even if it is unknown.
            static Selection named(List<String> ids, boolean again) {
                return PENDING.among(ids).with(Choice.NAMED, true).with(Choice.RESEND_UNKNOWN, true)
                        .with(Choice.AGAIN, again);
            }

            Selection among(List<String> ids) {
                return new Selection(choices, List.copyOf(ids), limit, seed);
            }

            /// Selects a random sample of the pending rows. Failed rows are left out, because the
            /// sample must resemble the pending rows that are forecast from it.
            Selection random(long rows, long seed) {
                return new Selection(choices, ids, rows, OptionalLong.of(seed));
            }

            Selection with(Choice choice, boolean isChosen) {
                if (!isChosen) return this;
                var all = EnumSet.of(choice);
                all.addAll(choices);
                return new Selection(all, ids, limit, seed);
            }

            boolean has(Choice choice) {
                return choices.contains(choice);
            }

            boolean isLimited() {
                return limit < Long.MAX_VALUE;
            }

            boolean isSample() {
                return seed.isPresent();
            }

            /// Returns whether rows that are not selected may stay pending after this session.
            boolean isPart() {
                return has(Choice.LISTED) || !ids.isEmpty() || isLimited();
            }
        }

        /// Holds the rows of one session: `fresh` ones can be sent at once, and of `unresolved`
        /// ones this attempt is looked up first.
        record Wanted(Batch batch, BitSet fresh, Map<Integer, History.Sent> unresolved, Selection asked) {
            BitSet entries() {
                var all = (BitSet) fresh.clone();
                unresolved.keySet().forEach(all::set);
                return all;
            }

            long rows() {
                return fresh.cardinality() + unresolved.size();
            }

            long count(RowStatus status) {
                return entries().stream().filter(entry -> batch.index().status(entry) == status).count();
            }
        }

        /// Finds the rows of a session. The limit or sample comes last, because it
        /// counts only rows that will take part.
        Wanted select(Selection asked) throws IOException {
            var rows = named(asked);
            if (!asked.has(Choice.AGAIN)) keep(rows, entry -> !index.status(entry).isSuccess()
                    || asked.has(Choice.RERUN_CHANGED) && history.isChanged(entry));
            // failed rows are left out, because a sample must resemble the rows that are
            // forecast from it
            if (asked.isSample()) keep(rows, entry -> index.status(entry) == RowStatus.PENDING);
            // these were paid for, so they are not sent again without being asked
            if (!asked.has(Choice.NAMED)) history.kept(asked.has(Choice.LISTED)).forEach(rows::clear);
            if (asked.isSample()) sample(rows, asked.limit(), new Random(asked.seed().getAsLong()));
            else rows.stream().skip(asked.limit()).findFirst().ifPresent(rest -> rows.clear(rest, rows.length()));
            var unresolved = history.unresolvedByRow();
            unresolved.keySet().removeIf(entry -> !rows.get(entry));
            // the row shall run again, even if a run of an earlier attempt has appeared since
            if (asked.has(Choice.AGAIN)) unresolved.values().removeIf(History.Sent::isNotStarted);
            unresolved.keySet().forEach(rows::clear);
            return new Wanted(this, rows, unresolved, asked);
        }

        private BitSet named(Selection asked) throws IOException {
            // `.retry` may have ids that the CSV lacks, for which there is no row to send
            if (asked.has(Choice.LISTED))
                return entrySet(index.onRetryList());
            if (asked.ids().isEmpty()) return entrySet(IntStream.range(0, index.rows()));
            var rows = entriesOf(asked.ids(), asked.has(Choice.NAMED) ? "" : "--ids: ");
            for (int entry : rows.stream().toArray())
                if (asked.has(Choice.NAMED) && !asked.has(Choice.AGAIN) && index.status(entry).isSuccess())
                    throw new Unusable("row " + Text.id(index.id(entry)) + " has already succeeded",
                            "to run it again, and pay again, pass --again");
            return rows;
        }

        private static void keep(BitSet rows, IntPredicate isKept) {
            for (int entry = rows.nextSetBit(0); entry >= 0; entry = rows.nextSetBit(entry + 1))
                if (!isKept.test(entry)) rows.clear(entry);
        }

        /// Keeps `count` rows, each with the same chance to stay. Knuth's algorithm S needs no list
        /// of rows. It keeps a row with the chance `wanted / left`. The same seed keeps the same
        /// rows.
        private static void sample(BitSet rows, long count, Random random) {
            long left = rows.cardinality(), wanted = count;
            for (int entry = rows.nextSetBit(0); entry >= 0; entry = rows.nextSetBit(entry + 1)) {
                boolean isChosen = random.nextDouble() * left-- < wanted;
                if (isChosen) wanted--;
                else rows.clear(entry);
            }
        }

        /// Returns the entries of these ids. Skips ids of other shards, so that one
        /// command line serves all shards.
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

    /// Writes a batch: results, log and retry list. It holds the lock, so no other process writes
    /// them. Every line goes three steps: it is added, [#write] puts it into its file, and
    /// [#commit] writes the file to disk (fsync).
    static final class BatchWriter implements AutoCloseable {
        /// Lines that nothing waits for, such as a `run` event, are on disk after at most this
        /// time. An fsync for each of them would keep the engine waiting for the disk.
        private static final Duration FORCE_EVERY = Duration.ofMillis(500);
        /// The retry list is rewritten as a whole, so it is not written after each row.
        private static final Duration RETRY_LIST_EVERY = Duration.ofSeconds(2);
        /// After the retry list was written, the next one waits for this many times as long as it
        /// took. Thus a long list takes at most a tenth of the engine's time.
        private static final int RETRY_LIST_REST = 9;

        private final Batch batch;
        private final BatchFiles.Lock lock;
        private final LineFile results, log;
        private final LineFile.Disk disk;
        /// Holds changes of the state that follow from added lines. They apply when the lines are
        /// in the files, so that no row counts as done whose line could not be written.
        private final List<Runnable> effects = new ArrayList<>();
        /// `mustForce` is true if something waits for added lines to be on disk.
        private boolean mustForce = false, retryListDue = false, fsyncFailureReported = false;
        /// `hasAttempts` is true if an attempt was added, and `hasSent` if one is on disk and may
        /// have been sent.
        private boolean hasAttempts = false, hasSent = false;
        private long nextRetryList = 0; // by System.nanoTime()
        private Optional<UncheckedIOException> retryListFailure = Optional.empty(); // of the last try
        private Instant nextForce = Instant.MIN; // so that the first commit does not wait
        private volatile long forcingSince = 0; // by System.nanoTime(); 0 while no fsync is in progress
        private CompletableFuture<Void> forcingResults = CompletableFuture.completedFuture(null);

        private BatchWriter(Batch batch, BatchFiles.Lock lock, LineFile results, LineFile log, LineFile.Disk disk) {
            this.batch = batch;
            this.lock = lock;
            this.results = results;
            this.log = log;
            this.disk = disk;
        }

        /// Opens a batch. The order of the steps matters. Files of another program and faults of
        /// the CSV are found before a lock file appears. After the lock, torn last lines are
        /// repaired before the files are read. The files are locked only afterwards, because a
        /// process loses its locks on a file when it closes any channel of that file.
        ///
        /// @param rows  the rows of the input, as if none had run
        /// @param fresh where `--fresh` prints that it moved the earlier batch
        ///              aside; empty to continue the batch
        static BatchWriter open(Batch rows, boolean noBom, Optional<PrintWriter> fresh, LineFile.Disk disk) {
            var files = rows.files();
            var csv = rows.csv().orElseThrow();
            var index = rows.index();
            try {
                return Storage.naming(files.results(), () -> {
                    files.requireOwnLog(fresh.isPresent());
                    var lock = files.acquire();
                    // results begin with a byte order mark, as in the original tool,
                    // which wrote no log
                    var results = new LineFile(files.results(), noBom ? new byte[0] : Lines.BOM, disk);
                    var log = new LineFile(files.log(), new byte[0], disk);
                    try {
                        Shards.refuseOthers(files, csv);
                        if (fresh.isPresent()) files.moveAside(fresh.get()); // the batch starts from scratch
                        var torn = Stream.of(log.repair(), results.repair()).flatMap(Optional::stream).toList();
                        var history = History.of(files, index, List.of());
                        history.requireReadable();
                        log.hold();
                        results.hold();
                        results.force(); // the log will record this size of the results as on disk
                        history.noteResultsSize(results.onDisk());
                        var batch = new Batch(files, Optional.of(csv), index, history, new LineOffsets());
                        var writer = new BatchWriter(batch, lock, results, log, disk);
                        torn.forEach(log::add);
                        log.write();
                        return writer;
                    } catch (IOException | RuntimeException problem) {
                        // closes all three, even if one of them fails, and then throws
                        try (lock; results; log) {
                            throw problem;
                        }
                    }
                });
            } catch (UncheckedIOException problem) {
                throw Unusable.of(problem);
            }
        }

        Batch batch() {
            return batch;
        }

        RowStatus status(Row row) {
            return batch.index().status(row.index());
        }

        /// Returns the size of the results on disk, which the log's events record. A later session
        /// that finds a smaller file can tell that results were lost.
        long resultsBytesOnDisk() {
            return results.onDisk();
        }

        /// Adds an event to the log. It counts after [#write]. Of each session, two lines are read
        /// back, because each promise depends on what the next session reads.
        void record(Event event) {
            boolean isFirst = event instanceof SessionEvent || event instanceof AttemptEvent && !hasAttempts;
            Invariant.hold(!isFirst || LineFile.readsBack(event), "a line of the log cannot be read back");
            log.add(event);
            effects.add(() -> batch.history().take(event));
            hasAttempts |= event instanceof AttemptEvent;
            // attempts and stops must be on disk before their requests are sent, and a session's
            // start before its results
            mustForce |= event instanceof AttemptEvent || event instanceof SessionEvent || event instanceof StopEvent;
        }

        /// The line in the results is the only record of a success.
        void recordSuccess(ResultLine success) {
            results.add(success.json());
            effects.add(() -> batch.history().take(success));
            markOutcome();
        }

        void recordEnd(EndEvent end) {
            record(end);
            markOutcome();
        }

        private void markOutcome() {
            mustForce = true; // an outcome is shown only after it is on disk
            retryListDue = true;
        }

        /// Writes the added lines into the files, and then applies their effects, such as the
        /// counts that limits use. The results come first, because a result whose log line cannot
        /// be written is still counted by the next session.
        void write() {
            joinResults(); // only one thread at a time may use the file
            results.write();
            log.write();
            var written = List.copyOf(effects);
            effects.clear(); // before they run, so that none is applied twice
            written.forEach(Runnable::run);
            if (retryListDue && System.nanoTime() >= nextRetryList) writeRetryList(Duration.ZERO);
        }

        /// Writes the retry list. It repeats what the log contains, so an error ends nothing: the
        /// next change tries again.
        private void writeRetryList(Duration patience) {
            long began = System.nanoTime();
            try {
                batch.files().writeRetryList(batch.index(), patience);
                retryListDue = false;
                retryListFailure = Optional.empty();
            } catch (UncheckedIOException problem) {
                retryListFailure = Optional.of(problem);
            }
            long ended = System.nanoTime();
            nextRetryList = ended + Math.max(RETRY_LIST_EVERY.toNanos(), RETRY_LIST_REST * (ended - began));
        }

        /// Writes the added lines into the files, and the log to disk at once if anything waits for
        /// that, otherwise every 500 ms. After this, attempts may be sent, and after
        /// [#awaitResults], outcomes may be shown.
        void commit(Instant now, Consumer<String> say) {
            write();
            Invariant.hold(batch.index().addsUp(), "the numbers of rows by status did not add up");
            if (!mustForce && now.isBefore(nextForce)) return;
            nextForce = now.plus(FORCE_EVERY);
            forceLog();
            // the results are in the same folder as the log
            if (fsyncFailureReported || !log.cannotForce()) return;
            fsyncFailureReported = true;
            say.accept("The file system of " + batch.files().log()
                    + " does not support fsync. "
                    + "After a power loss, the log may lack runs that you paid for.");
        }

        /// Writes the log to disk, and the results at the same time. A file system
        /// with a journal then writes it only once. Requests need only the log, so
        /// they do not wait for the results.
        private void forceLog() {
            forcingSince = System.nanoTime() | 1; // never 0, which means that no fsync is in progress
            if (!results.isForced())
                forcingResults = CompletableFuture.runAsync(results::force, Thread::startVirtualThread);
            log.force();
            mustForce = false;
            hasSent = hasAttempts;
        }

        /// Waits until the results are on disk. After this, outcomes may be shown.
        void awaitResults() {
            joinResults();
            results.force(); // throws the error of the other thread, if any
        }

        private void joinResults() {
            forcingResults.handle((_, problem) -> problem).join(); // waits, but does not throw
            forcingSince = 0;
        }

        private void force() {
            forceLog();
            awaitResults();
        }

        boolean isOnDisk() {
            return effects.isEmpty() && log.isForced();
        }

        /// Returns how long the current write to disk has taken. May be called from any thread.
        Duration forcingFor() {
            long since = forcingSince;
            return since == 0 ? Duration.ZERO : Duration.ofNanos(System.nanoTime() - since);
        }

        /// Returns whether the disk has been busy for so long that the user should be informed. May
        /// be called from any thread.
        boolean isDiskSlow() {
            return forcingFor().compareTo(disk.patience()) > 0;
        }

        void recordStop(Instant now, Optional<Stop> stop) {
            write();
            force(); // so that the event contains the final size of the results
            // without user and task, because this is not about a single run
            record(new StopEvent(now, stop.map(Stop::what).orElse(""), "", "", resultsBytesOnDisk()));
            write(); // [#finish] writes it to disk
        }

        /// Writes everything to disk and closes the files. Returns the error, if any. This comes
        /// before the summary, so that no error appears after the last message.
        ///
        /// @param say gets a sentence if the retry list could not be written
        Optional<Stop> finish(Consumer<String> say) {
            try (this) {
                try {
                    write();
                } finally {
                    force(); // what earlier writes have put into the files counts already
                }
                writeRetryList(AtomicFile.PATIENCE);
                retryListFailure.map(problem -> Unusable.of(problem).text()).ifPresent(text -> say.accept(
                        "Note: the retry list is not up to date: " + text));
                return Optional.empty();
            } catch (UncheckedIOException problem) {
                return Optional.of(unwritable(problem.getCause()));
            }
        }

        /// Returns whether everything that counts is on disk.
        boolean isSaved() {
            return results.isForced() && log.isForced();
        }

        /// Returns the reason to stop after a failed write. Exit code 2 means that nothing was
        /// sent, and 4 that runs may have been paid for. If another program changed a file,
        /// starting again is not safe, because attempts may be missing from the log.
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

    /// Holds the ids of a batch, and the line, hash and status of each. They are packed into about
    /// forty bytes per id, without objects, so that a million rows fit into 40 MB. Entries are
    /// numbered in the order in which they came. The ids of the CSV come first, so that the number
    /// of an entry is also the number of its row.
    static final class Index {
        private static final RowStatus[] STATUSES = RowStatus.values(); // values() makes a copy each time

        private final Texts ids = new Texts();
        /// `places` holds where an id is in `ids` (upper 32 bits) and the line of its row (lower 32
        /// bits). `fingerprint` is the hash of its row, or 0 if the CSV lacks it.
        private final LongList places = new LongList(), fingerprint = new LongList(), statuses = new LongList();
        private final SequencedSet<String> versions = new LinkedHashSet<>();
        private int ofOtherShards = 0;
        private int rows = -1; // -1 until the end of the CSV is reached, and without a CSV
        /// Counts the rows by status. The limits need these counts after every row, and a scan of a
        /// million rows would take too long.
        private final long[] counts = new long[STATUSES.length];
        private final BitSet toRetry = new BitSet(); // spares the retry list such a scan
        /// Holds a hash table of the ids with open addressing. If a slot is taken, the next one is
        /// tried. At most two thirds of it are full, because searches get long otherwise. A slot
        /// holds the number of an entry plus one, or 0 if it is free. Its length is a power of two,
        /// so that a bit mask keeps a slot in range.
        private int[] table = new int[4096]; // 16 KB; it grows with the batch

        /// Reads the ids of a CSV, or of its shard.
        ///
        /// @param inspector receives each row that has a usable id
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

        /// Returns the versions of the workflow that made results. The version of the last result
        /// comes last, because a session reports when the version changes.
        SequencedSet<String> versions() {
            return Collections.unmodifiableSequencedSet(versions);
        }

        int rows() {
            return rows < 0 ? size() : rows;
        }

        int size() {
            return places.size();
        }

        /// Returns whether the entry is a row of the CSV. Without a CSV, every known id counts as a
        /// row, so that views show what the files contain.
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

        /// Returns the rows for the retry list, in the CSV's order. Ids that the CSV lacks are not
        /// included.
        IntStream onRetryList() {
            return toRetry.stream();
        }

        /// Sets the status of an entry. Only rows of the CSV are counted, because
        /// totals are about the CSV.
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

        boolean isComplete() {
            return succeeded() == rows();
        }

        boolean addsUp() {
            return Arrays.stream(counts).sum() == rows();
        }

        long succeeded() {
            return count(RowStatus.SUCCEEDED) + count(RowStatus.PARTIAL);
        }

        private int place(int entry) {
            return (int) (places.get(entry) >>> Integer.SIZE);
        }

        /// Returns the slot of the id in the table, or the free slot in which to put it. Ids often
        /// differ only in their last digits, so the hash is multiplied (2³² divided by the golden
        /// ratio) and its upper bits are mixed in to spread them over the table.
        private int slot(byte[] id) {
            int hash = Arrays.hashCode(id) * 0x9E3779B9, mask = table.length - 1, slot = (hash ^ hash >>> 15) & mask;
            while (table[slot] != 0 && !Arrays.equals(ids.get(place(table[slot] - 1)), id)) slot = slot + 1 & mask;
            return slot;
        }

        /// Holds short texts as bytes, one after the other in blocks of 1 MiB, each after its
        /// length. A place is a number of 32 bits: 12 bits for the block and 20 bits for the offset
        /// in it, enough for 4 GiB of ids. A longer text gets a block of its own.
        private static final class Texts {
            private static final int OFFSET_BITS = 20, BLOCK_SIZE = 1 << OFFSET_BITS;

            private final List<ByteBuffer> blocks = new ArrayList<>();

            /// Adds a text and returns its place. A text is never divided between two blocks, so
            /// the rest of a block may stay empty.
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

    /// Counts what the lines of a batch, or of one session, contain. [History] passes on each line
    /// after it was read or written, so that a session and a later `status` show the same figures.
    /// All figures that people see come from here, except the number of rows by status in the whole
    /// batch, which [Index] counts.
    static class Figures {
        /// Fewer rows, such as a retry of two, do not show how many rows ran at a time.
        private static final int ENOUGH_ROWS = 5;

        final Usage.Spending spending = new Usage.Spending();
        private final BitSet sent = new BitSet(), succeeded = new BitSet();
        /// Holds the duration of each row's last attempt with an outcome, in
        /// milliseconds plus one, or 0.
        private final LongList took = new LongList();
        private final SortedMap<Integer, Integer> missingFiles = new TreeMap<>(); // by entry
        private final Map<Class<?>, Long> eventCounts = new HashMap<>();
        private long stopped = 0; // counts runs that an interrupt stopped
        private Optional<Instant> startedAt = Optional.empty(), updatedAt = Optional.empty();
        /// Holds the duration of all sessions, each up to its last event.
        private Duration timeTaken = Duration.ZERO;
        /// Hold the time of the earlier sessions, and how many rows ended in the last one and took
        /// how long together.
        private Duration timeBefore = Duration.ZERO;
        private long ended = 0, endedMillis = 0;

        /// Counts an event of the log. Attempts, outcomes and the end of a session extend the
        /// session's time up to them. The time between two sessions does not count.
        void take(Event event) {
            eventCounts.merge(event.getClass(), 1L, Long::sum);
            switch (event) {
                case SessionEvent started -> {
                    // the time since the last session does not count; in a log that `merge`
                    // made, that of another shard may not have ended yet
                    if (updatedAt.filter(started.t()::isBefore).isEmpty()) updatedAt = Optional.of(started.t());
                    advanceTo(started.t()); // adds nothing, but may set the start of the batch
                    timeBefore = timeTaken;
                    ended = 0;
                    endedMillis = 0;
                }
                case AttemptEvent attempt -> advanceTo(attempt.t());
                case EndEvent end -> {
                    advanceTo(end.t());
                    // a row that is sent again has not ended yet
                    if (end.status().isPresent()) addEnd(Math.round(end.last().seconds() * 1000));
                }
                case StopEvent stop -> {
                    if (stop.user().isEmpty()) advanceTo(stop.t()); // the session stopped, not a single run
                    if (stop.isOfInterruptedRun()) stopped++;
                }
                // only their number matters; the next event above includes their time
                case MergeEvent _, RunEvent _, FormEvent _, ExpiredEvent _, ResponseEvent _, LookEvent _,
                        HarvestEvent _, ThrottleEvent _, LateEvent _, TornEvent _ -> {}
            }
        }

        void countSent(int entry, Instant at) {
            sent.set(entry);
        }

        void countSpending(int entry, Cost cost) {
            spending.add(cost);
        }

        /// Notes how many files of a row's outputs could not be saved. The row's last result
        /// counts.
        void noteMissingFiles(int entry, int missing) {
            if (missing == 0) missingFiles.remove(entry);
            else missingFiles.put(entry, missing);
        }

        /// Records a row's outcome. A failure does not replace an earlier success.
        ///
        /// @param seconds NaN if unknown, as in results of the original tool
        void countOutcome(int entry, RowStatus former, Outcome outcome, double seconds) {
            if (outcome.status().isSuccess()) succeeded.set(entry);
            else if (former.isSuccess()) return;
            // at most 31 bits, because `compare` packs the milliseconds and a row's
            // number into one long
            took.set(entry, Double.isNaN(seconds) ? 0 : 1 + Math.min(Integer.MAX_VALUE, Math.round(seconds * 1000)));
        }

        /// Extends the session's time to the end of this attempt, of whose success
        /// the log has no event.
        void extendToResult(AttemptEvent attempt, int entry) {
            long millis = millis(entry).orElse(0);
            advanceTo(attempt.t().plusMillis(millis));
            addEnd(millis);
        }

        private void addEnd(long millis) {
            ended++;
            endedMillis += millis;
        }

        private void advanceTo(Instant now) {
            if (startedAt.isEmpty()) startedAt = Optional.of(now);
            var passed = updatedAt.map(before -> Duration.between(before, now)).orElse(Duration.ZERO);
            if (passed.isNegative()) return; // the clock was set back
            timeTaken = timeTaken.plus(passed);
            updatedAt = Optional.of(now);
        }

        /// Returns the duration of all sessions, without the time between them.
        Duration timeTaken() {
            return timeTaken;
        }

        /// Returns how many rows ran at a time: the rows' time together, divided by the time that
        /// passed. The last session counts, or all if it was short, such as a retry of two rows.
        /// Returns 0 if the time is unknown.
        double concurrency() {
            boolean isEnough = ended >= ENOUGH_ROWS;
            double passed = Math.max(1, (isEnough ? timeTaken.minus(timeBefore) : timeTaken).toMillis());
            long together = isEnough ? endedMillis
                    : IntStream.range(0, took.size()).mapToLong(entry -> millis(entry).orElse(0)).sum();
            return together / passed;
        }

        Optional<Instant> startedAt() {
            return startedAt;
        }

        Optional<Instant> updatedAt() {
            return updatedAt;
        }

        OptionalLong millis(int entry) {
            long known = took.get(entry);
            return known == 0 ? OptionalLong.empty() : OptionalLong.of(known - 1);
        }

        /// Returns percentiles of the latency of succeeded rows, in seconds, or an empty map if
        /// there are none. A percentile is the duration of a row (nearest rank), never a value
        /// between two rows.
        Map<String, Double> latencies() {
            var sorted = succeeded.stream().mapToObj(this::millis).flatMapToLong(OptionalLong::stream).sorted()
                    .toArray();
            var named = new LinkedHashMap<String, Double>();
            if (sorted.length == 0) return named;
            for (int percent : new int[] {50, 90, 99})
                named.put("p" + percent, sorted[(int) Math.ceil(percent / 100.0 * sorted.length) - 1] / 1000.0);
            named.put("max", sorted[sorted.length - 1] / 1000.0);
            return named;
        }

        boolean isSent(int entry) {
            return sent.get(entry);
        }

        long count(Class<? extends Event> kind) {
            return eventCounts.getOrDefault(kind, 0L);
        }

        /// Returns how many attempts were made beyond the first of each row.
        long retries() {
            return count(AttemptEvent.class) - sent.cardinality();
        }

        /// Returns how many runs Dify was asked to stop because their session was interrupted.
        long stopped() {
            return stopped;
        }

        SortedMap<Integer, Integer> missingFiles() {
            return Collections.unmodifiableSortedMap(missingFiles);
        }
    }

    // Batch: the state that earlier sessions left

    /// Holds the state that follows from the lines of the results and the log. Lines of earlier
    /// sessions are applied when they are read, the results first, and lines of this session after
    /// they were written. An attempt is kept until nothing is left to learn about it. Each kind of
    /// line changes the attempts of its row:
    ///
    /// | line | effect on the attempts |
    /// | --- | --- |
    /// | a result | its attempt is dropped, and so are `NOT_STARTED` and each `RESENT` with a known run |
    /// | `attempt` | `OPEN`; `NOT_STARTED` without a run becomes `RESENT`; all but `RESENT` and `OPEN` are dropped |
    /// | `response`, `look` | notes whether it has a run, and which |
    /// | `end` not_started, resent | `NOT_STARTED` |
    /// | `end` unknown, paused | `UNSETTLED` |
    /// | `end` failed | dropped, but `NOT_STARTED` without a run stays |
    /// | any other `end` | dropped, and `UNSETTLED` with it |
    /// | `late` | `RESENT` is dropped, or keeps the run if that may still give the row a success |
    ///
    /// If the results are shorter than the log last recorded, all attempts become doubtful, because
    /// their results may be among the lost lines.
    static final class History {
        /// Holds the outcomes of an `end` event after which a row may be sent again
        /// although its attempt had no result.
        private static final Set<String> NOT_STARTED = Set.of("not_started", "resent");
        private static final double BILLION = 1e9;
        /// Streams that are sent within this time of each other may enter Dify's
        /// queue in another order.
        private static final Duration REORDERING = Duration.ofSeconds(1);

        private final Index index;
        private final Map<String, List<Sent>> sent = new LinkedHashMap<>(); // by id
        private final Set<String> stoppedTasks = new HashSet<>();
        /// Holds the hash of the attempt that made each row's last line in the results. The results
        /// are read before the log, which has no `end` event of a success, so an `attempt` event is
        /// over if its hash is here.
        private final LongList lastResult = new LongList();
        /// Holds the hashes of attempts that made earlier lines of a row. Only rows with several
        /// results need it.
        private final Set<Long> formerResults = new HashSet<>();
        private final Map<Integer, EndEvent> ends = new HashMap<>(); // of rows that have not succeeded, by entry
        private final Map<String, List<FormEvent>> forms = new HashMap<>(); // by user, because a form is of one attempt
        private final LongList attemptsByRow = new LongList();
        private final BitSet changed = new BitSet(), kept = new BitSet();
        final Figures figures = new Figures();
        /// Holds the figures of the batch, and of the session that this process runs.
        private final List<Figures> counting = new ArrayList<>(List.of(figures));
        private final LongList tokensByRow = new LongList();
        /// Holds the cost of each row over all its attempts, by currency. It is in billionths,
        /// because a list of whole numbers takes less memory than one of objects.
        private final Map<String, LongList> costByRow = new HashMap<>();
        private final List<String> unreadable = new ArrayList<>();
        /// Holds what the last session required of outputs, and how many runs since then succeeded
        /// but failed it. The number is negative if one has met it.
        private List<String> required = List.of();
        private int unmet = 0;
        private final Map<Class<?>, Event> last = new HashMap<>(); // by kind of event
        Optional<Mode> mode = Optional.empty(); // the last mode that the tool chose itself
        private Optional<String> stopped = Optional.empty();
        /// Holds the last session until its end is in the log, and is empty afterwards.
        private Optional<SessionEvent> unfinished = Optional.empty();
        /// Holds, by user, when streams were sent that have not started. When one
        /// starts, Dify's queue has passed those before it, and they move to
        /// `passedAt`. Dify shows its queue in no other way.
        private final Map<String, Instant> queued = new LinkedHashMap<>(), passedAt = new HashMap<>();
        private long resultsSize = 0;
        /// Holds the row of each run that has ended, by a hash of its id.
        private final Map<Long, Integer> rowsByRun = new HashMap<>();

        /// Describes what is still unknown about an attempt. Before a row runs, its most urgent
        /// attempt is looked up. The constants are in order of urgency, the least urgent first:
        ///
        /// - `RESENT`: The row was sent again after it. It is only looked for when
        ///   the session ends, as a `late` run.
        /// - `UNSETTLED`: Its outcome is unknown, or its run waits for a person.
        /// - `NOT_STARTED`: It counted as not started, or `--resend-unknown` gave it
        ///   up, so its row may be sent again.
        /// - `OPEN`: The log contains no `end` event of it.
        enum State { RESENT, UNSETTLED, NOT_STARTED, OPEN }

        /// Holds an attempt that was sent, updated by the later lines about it.
        static final class Sent {
            final AttemptEvent event;
            final String server; // Dify's version, which decides where its run can be found
            Optional<RunRef> run = Optional.empty();
            int http = 0; // the HTTP status of its response, if known; 200 shows that it has a run
            State state = State.OPEN;
            /// `isElsewhere`: perhaps it went to another app, because a later session of 0.4.0 or
            /// 0.5.0 used `--same-app`. `isDoubtful`: its result may be among the lost lines of the
            /// results.
            boolean isElsewhere, isDoubtful;

            Sent(AttemptEvent event, String server) {
                this.event = event;
                this.server = server;
            }

            /// Notes its run. An `end` event contains no task, so a known one is kept.
            void noteRun(String id, String task) {
                boolean isKnown = task.isEmpty() && run.filter(ref -> ref.id().equals(id)).isPresent();
                if (!id.isEmpty() && !isKnown) run = Optional.of(new RunRef(id, task));
            }

            /// Notes the HTTP status of its response. Up to 0.5.0, the log also contains those of
            /// gateways that gave up waiting, which show nothing, see [Transport].
            void noteResponse(ResponseEvent response) {
                boolean isAtOnce = !response.t().isAfter(event.t().plus(Response.AT_ONCE));
                if (response.http() < 500 || isAtOnce) http = response.http();
            }

            boolean isNotStarted() {
                return state == State.NOT_STARTED;
            }

            boolean isUnseen() {
                return run.isEmpty() && http != 200 && (state == State.NOT_STARTED || state == State.RESENT);
            }

            /// Returns whether a run of it may still give the row a result, although
            /// the row is sent again.
            boolean isAwaited() {
                return isUnseen() || state == State.RESENT;
            }

            Response reported(Symptom symptom, String why) {
                if (http == 200) return new Response.Unreadable(run, why);
                return http == 0 || run.isPresent() ? new Response.Cut(run, symptom, why)
                        : Response.Refused.bare(http, Response.Refused.Author.AT_ONCE, why);
            }

            /// Returns this attempt for the row. It does not count as edited if the CSV now
            /// contains the edits that it was sent with.
            Attempt attempt(Row row) {
                // the hash of a row that is still edited includes the edits, so it does not show
                // what the CSV contains
                boolean isEdited = event.edited() && (row.isEdited() || !event.fingerprint().equals(row.hash()));
                // sequence 0 marks an attempt of an earlier session; its retries
                // count only as `Tries.earlier`
                return new Attempt(0, row, new Attempt.Tries(0, 0, event.n()), event.user(), event.mode(),
                        event.fingerprint(), event.t(), isEdited);
            }
        }

        History(Index index) {
            this.index = index;
        }

        /// Reads results, log and retry list. The results come first, because they show which
        /// attempts of the log have succeeded.
        static History of(BatchFiles files, Index index, List<Batch.Listener> listeners) throws IOException {
            var history = new History(index);
            // without a log, no session is writing a line, and none would repair it
            history.readResults(files.results(), !files.hasLog(), listeners);
            history.readLog(files.log(), listeners);
            files.retryIds().forEach(history::takeListed);
            return history;
        }

        void readResults(Path results, boolean isComplete, List<Batch.Listener> listeners) throws IOException {
            unreadable.addAll(ResultLine.scan(results, isComplete, (success, line) -> {
                if (!success.isSuccess()) return;
                int entry = take(success);
                for (var listener : listeners) listener.result(entry, line);
            }));
        }

        void readLog(Path log, List<Batch.Listener> listeners) throws IOException {
            unreadable.addAll(Event.scan(log, (event, line) -> {
                // the session comes first, so no event of another format counts
                if (event instanceof SessionEvent session) session.requireFormat(log);
                take(event);
                listeners.forEach(listener -> listener.event(index, event, line.place()));
            }));
        }

        /// Adds the figures of this session, which count all later lines.
        void count(Figures session) {
            counting.add(session);
        }

        /// Notes that a row has this run, or this message if it has no run. Returns false if
        /// another row of the batch has it.
        boolean claim(int entry, String run) {
            if (run.isEmpty()) return true;
            // its second half makes a hash of 64 bits
            long key = hash(run.hashCode(), run.substring(run.length() / 2));
            return rowsByRun.computeIfAbsent(key, _ -> entry) == entry;
        }

        <T extends Event> Optional<T> last(Class<T> kind) {
            return Optional.ofNullable(kind.cast(last.get(kind)));
        }

        /// Applies an event of the log, when it is read or after it was written.
        void take(Event event) {
            if (event.results() >= 0) noteResultsSize(event.results()); // -1 if the event lacks the size
            last.put(event.getClass(), event);
            counting.forEach(one -> one.take(event));
            switch (event) {
                case SessionEvent started -> takeSession(started);
                case AttemptEvent attempt -> takeAttempt(attempt);
                case RunEvent run -> takeRun(run);
                case FormEvent form -> forms.computeIfAbsent(form.user(), _ -> new ArrayList<>(1)).add(form);
                case EndEvent end -> takeEnd(end);
                case LateEvent found -> takeLate(found);
                case StopEvent stop -> takeStop(stop);
                case ResponseEvent response -> find(response.id(), response.user())
                        .ifPresent(one -> one.noteResponse(response));
                case LookEvent look -> takeLook(look);
                // they change no attempt
                case ExpiredEvent _, HarvestEvent _, ThrottleEvent _, TornEvent _, MergeEvent _ -> {}
            }
        }

        /// Notes the size of the results according to an event or to the file. If it is smaller
        /// than before, lines are missing, and any attempt may be the one whose result is lost.
        void noteResultsSize(long size) {
            if (size < resultsSize) all(_ -> true).forEach(one -> one.isDoubtful = true);
            resultsSize = size;
        }

        /// Applies a stop event. Without a user, the session ended; with a user, Dify was asked to
        /// stop one task.
        private void takeStop(StopEvent stop) {
            if (stop.user().isEmpty()) {
                stopped = Optional.of(stop.why()).filter(why -> !why.isEmpty());
                unfinished = Optional.empty();
            } else if (stop.isOfInterruptedRun()) stoppedTasks.add(stop.task());
        }

        /// Sets the status of a row; no other method does. A success is never replaced. Returns
        /// whether the row got this status.
        private boolean settle(int entry, RowStatus status) {
            if (status.isSuccess()) unmet = Integer.MIN_VALUE;
            boolean isKept = index.status(entry).isSuccess() && !status.isSuccess();
            if (!isKept) index.setStatus(entry, status);
            return !isKept;
        }

        /// Applies a success. If an id has several lines, the last one counts.
        int take(ResultLine success) {
            int entry = index.findOrAdd(success.id().strip()); // as the CSV's ids are
            var former = index.status(entry);
            settle(entry, success.outcome().status());
            if (!success.text("workflow_id").isEmpty()) index.madeBy(success.text("workflow_id"));
            claim(entry, success.run().isEmpty() ? success.text("message_id") : success.run());
            spend(entry, Cost.of(success.json()));
            double seconds = success.json().path("seconds").asDouble(Double.NaN);
            counting.forEach(one -> one.countOutcome(entry, former, success.outcome(), seconds));
            counting.forEach(one -> one.noteMissingFiles(entry, success.json().path("missing").size()));
            // a row that the CSV lacks, an edited row and a line of the original
            // tool cannot be compared
            var sent = success.text("fingerprint");
            changed.set(entry, index.fingerprint(entry) != 0 && !success.isEdited() && !sent.isEmpty()
                    && !sent.equals(HexFormat.of().toHexDigits(index.fingerprint(entry))));
            ends.remove(entry);
            kept.clear(entry);
            if (lastResult.get(entry) != 0) formerResults.add(lastResult.get(entry));
            lastResult.set(entry, hash(entry, success.user()));
            // a session measures its own time, so only the batch's figures need the attempt
            remove(success.id(), one -> one.event.user().equals(success.user()))
                    .ifPresent(one -> figures.extendToResult(one.event, entry));
            // a resent attempt without a run stays, because its run may still appear
            // and was paid for, too
            remove(success.id(), one -> one.state == State.NOT_STARTED
                    || one.state == State.RESENT && one.run.isPresent());
            return entry;
        }

        private boolean hasResult(int entry, String user) {
            long attempt = hash(entry, user);
            return lastResult.get(entry) == attempt || formerResults.contains(attempt);
        }

        /// Identifies an attempt by a number, which takes less memory than a text. The upper 32
        /// bits are the entry plus one, so that no number is 0, and the lower 32 bits are the hash
        /// of its user.
        private static long hash(int entry, String user) {
            return entry + 1L << Integer.SIZE | user.hashCode() & 0xFFFF_FFFFL;
        }

        /// Adds an id of the retry list. An id that is only there failed in the
        /// original tool, which has no log.
        void takeListed(String id) {
            int entry = index.findOrAdd(id);
            if (index.status(entry) == RowStatus.PENDING) settle(entry, RowStatus.FAILED);
        }

        /// Applies the start of a session. A process logs another start when it changes its mode,
        /// although its session continues.
        private void takeSession(SessionEvent started) {
            stopped = Optional.empty();
            var process = Optional.ofNullable(started.program().process());
            boolean isNew = !unfinished.map(last -> last.program().process()).equals(process);
            if (isNew) unfinished = Optional.of(started);
            // a mode that was typed does not last
            if (started.auto()) mode = Optional.ofNullable(started.mode());
            // one more row may be tried after a stop, because the workflow may have changed
            unmet = required.equals(started.call().require()) ? Math.min(unmet, Limits.FIRST_ROWS - 1) : 0;
            required = started.call().require();
            if (isNew && started.dify().app().isAssumed()) all(_ -> true).forEach(one -> one.isElsewhere = true);
            // what earlier sessions sent or saw was before this one, even if the
            // clock was set back since
            for (var times : List.of(queued, passedAt))
                times.replaceAll((_, time) -> Collections.min(List.of(time, started.t())));
        }

        boolean hasLines(int entry) {
            return index.status(entry) != RowStatus.PENDING || attemptsByRow.get(entry) > 0;
        }

        private void spend(int entry, Cost cost) {
            counting.forEach(one -> one.countSpending(entry, cost));
            tokensByRow.set(entry, tokensByRow.get(entry) + cost.tokens());
            if (cost.price() == null) return;
            var costs = costByRow.computeIfAbsent(cost.currency(), _ -> new LongList());
            costs.set(entry, costs.get(entry) + Math.round(cost.price().doubleValue() * BILLION));
        }

        long tokens(int entry) {
            return tokensByRow.get(entry);
        }

        int attempts(int entry) {
            return (int) attemptsByRow.get(entry);
        }

        double cost(int entry, String currency) {
            var costs = costByRow.get(currency);
            return costs == null ? 0 : costs.get(entry) / BILLION;
        }

        /// Applies an attempt that is about to be sent. An attempt whose success is in the results
        /// is already over, because the results are read first.
        private void takeAttempt(AttemptEvent attempt) {
            int entry = index.findOrAdd(attempt.id());
            counting.forEach(one -> one.countSent(entry, attempt.t()));
            attemptsByRow.set(entry, attemptsByRow.get(entry) + 1);
            kept.clear(entry); // it was sent again on purpose
            remove(attempt.id(), one -> one.state == State.NOT_STARTED).filter(one -> one.run.isEmpty())
                    .ifPresent(one -> add(one, State.RESENT));
            remove(attempt.id(), one -> one.state == State.UNSETTLED);
            if (attempt.mode() == Mode.STREAMING) queued.put(attempt.user(), attempt.t());
            boolean isOver = hasResult(entry, attempt.user());
            if (isOver) unmet = Integer.MIN_VALUE;
            if (isOver) figures.extendToResult(attempt, entry);
            else add(new Sent(attempt, last(SessionEvent.class).map(last -> last.dify().version()).orElse("")),
                    State.OPEN);
        }

        private void takeRun(RunEvent run) {
            // a made-up id shows nothing about the queue
            if (!new RunRef(run.run(), run.task()).isMadeUp()) noteStart(run);
            find(run.id(), run.user()).filter(one -> one.state == State.OPEN)
                    .ifPresent(one -> one.noteRun(run.run(), run.task()));
        }

        /// Applies the result of a look-up. A run that Dify has shown once exists,
        /// even if Dify deletes it later.
        private void takeLook(LookEvent look) {
            if (Set.of("absent", "no response").contains(look.saw())) return;
            noteStart(look);
            find(look.id(), look.user()).ifPresent(one -> {
                one.noteRun(look.run(), "");
                one.http = 200;
            });
            // the row is sent again all the same, so nothing is left to learn about
            // a run that failed
            if (Set.of("failed", "stopped").contains(look.saw()))
                remove(look.id(), one -> one.event.user().equals(look.user()) && one.state != State.OPEN
                        && one.state != State.UNSETTLED);
        }

        /// Notes that an attempt has left Dify's queue, which holds only streams.
        /// Those before it have been passed.
        private void noteStart(Event start) {
            var sentAt = queued.remove(start.user());
            if (sentAt == null) return;
            for (var before = queued.entrySet().iterator(); before.hasNext(); ) {
                var stream = before.next();
                if (!stream.getValue().plus(REORDERING).isBefore(sentAt)) return;
                passedAt.put(stream.getKey(), start.t());
                before.remove();
            }
        }

        /// Applies the end of an attempt without a success. Its cost always counts. Its outcome may
        /// concern only the attempt, such as `again`, which leaves the row pending.
        private void takeEnd(EndEvent end) {
            int entry = index.findOrAdd(end.id());
            claim(entry, end.last().run());
            spend(entry, end.last().cost());
            if (hasResult(entry, end.user())) return; // a look-up found later that the attempt had succeeded
            // if the attempt is no longer known, any mode and number of retries will
            // do; a look-up needs only its user
            var known = remove(end.id(), one -> one.event.user().equals(end.user()))
                    .orElseGet(() -> new Sent(new AttemptEvent(end.t(), end.id(), 0, end.user(), Mode.BLOCKING,
                            end.fingerprint(), end.edited(), 0), ""));
            known.noteRun(end.last().run(), "");
            remove(end.id(), one -> one.state == State.UNSETTLED);
            if (NOT_STARTED.contains(end.outcome())) add(known, State.NOT_STARTED);
            var status = end.status();
            // only an attempt without any outcome may still wait in the queue
            if (status.orElse(null) != RowStatus.UNKNOWN && !NOT_STARTED.contains(end.outcome()))
                queued.remove(end.user());
            if (status.isEmpty()) return;
            // what is unknown or paused is looked up later; a failure keeps an
            // attempt for which a run may still appear
            if (status.get() != RowStatus.FAILED) add(known, State.UNSETTLED);
            else if (known.state == State.NOT_STARTED && known.run.isEmpty()) add(known, State.NOT_STARTED);
            var former = index.status(entry);
            var outcome = new Outcome(status.get(), end.last().error());
            counting.forEach(one -> one.countOutcome(entry, former, outcome, end.last().seconds()));
            if (end.isUnmet()) unmet++;
            if (!settle(entry, status.get())) return;
            boolean wasPaused = former == RowStatus.PAUSED;
            kept.set(entry, end.isUnmet() || Judge.isAfterForm(end.last().error(), wasPaused));
            ends.put(entry, end.withoutOutputs());
        }

        /// Stops the batch if the first runs that succeeded all failed a requirement, because its
        /// pointer is probably misspelt.
        Optional<Stop> unusableRequirement() {
            if (unmet < Limits.FIRST_ROWS) return Optional.empty();
            return last(EndEvent.class).filter(EndEvent::isUnmet).map(EndEvent::last).map(last -> Stop.early(
                    "the first " + unmet + " rows that succeeded failed --require: " + last.error(),
                    "correct --require, or drop it with --require ''; the outputs are: " + Text.printable(
                            String.join(", ", (Iterable<String>) last.outputs()::fieldNames), 300)));
        }

        /// Applies the run of an attempt whose row was sent again. While it is active and the row
        /// has no success, its result can still be taken, so the attempt is kept with this run.
        /// Otherwise its result can no longer matter, so the attempt is removed.
        private void takeLate(LateEvent found) {
            // a crash may have lost the line of a success
            boolean isOpen = Set.of("running", "paused", "listed", "succeeded", "partial").contains(found.saw())
                    && !index.status(index.findOrAdd(found.id())).isSuccess();
            find(found.id(), found.user()).filter(one -> one.state == State.RESENT).ifPresent(one -> {
                one.noteRun(found.run(), "");
                if (!isOpen) remove(found.id(), one::equals);
            });
        }

        private void add(Sent one, State state) {
            one.state = state;
            sent.computeIfAbsent(one.event.id(), _ -> new ArrayList<>(1)).add(one); // a row seldom has two
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

        /// Returns a note about the lines that cannot be read, with the places of the first three,
        /// or empty if there are none.
        Optional<String> unreadable() {
            return unreadable.isEmpty() ? Optional.empty() : Optional.of(Text.count(unreadable.size(), "line")
                    + " cannot be read (" + Text.joinFirst(3, unreadable.stream()) + ")");
        }

        /// Refuses to continue with lines that cannot be read, because one may
        /// record a result or a run.
        void requireReadable() {
            unreadable().ifPresent(note -> {
                throw new Unusable(note + "; if one records a run, its row could be sent again",
                        "restore the file from a backup; without the line, its row may be paid for again");
            });
        }

        /// Returns the CSV of the last session, if it is still there.
        Optional<Path> input(Path results) {
            return last(SessionEvent.class).flatMap(last -> last.csv().file(results)).filter(Files::isRegularFile);
        }

        /// Returns the session that another process of this machine is running, or empty. The lock
        /// is not tested, because a test takes it for a moment, and a command that starts at that
        /// moment would fail.
        Optional<SessionEvent> liveSession() {
            return unfinished.filter(session -> session.program().process() != null
                    && session.program().process().isOtherAlive());
        }

        /// Returns why the last session stopped early, or empty if the log contains no reason.
        Optional<String> stopped() {
            return stopped;
        }

        IntStream changed() {
            return changed.stream();
        }

        boolean isChanged(int entry) {
            return changed.get(entry);
        }

        /// Returns the failed rows that were paid for, so that `run` does not send them again.
        /// `retry` sends those that failed a requirement. A row whose form was answered needs an
        /// explicit id, because a person would be asked again.
        IntStream kept(boolean isRetry) {
            return kept.stream().filter(entry -> !isRetry || !ends.get(entry).isUnmet());
        }

        /// Returns the last `end` event of a row that has not succeeded, or empty if there is none.
        Optional<EndEvent> end(int entry) {
            return Optional.ofNullable(ends.get(entry));
        }

        /// Returns why a row failed or is unresolved, including the titles of the forms that it
        /// waits for. A row that is only listed in `.retry` has no recorded cause.
        String cause(int entry) {
            // an output's name may contain digits, which distinguish causes
            return end(entry).map(end -> end.isUnmet() ? end.last().error() : Stream.concat(Stream.of(
                    Text.cause(end.last().error())), forms(entry).map(FormEvent::title)).distinct()
                    .collect(joining(": "))).orElse("listed in .retry");
        }

        /// Returns the forms for which the run of a paused row waits. The log lacks them if the
        /// response did.
        Stream<FormEvent> forms(int entry) {
            if (index.status(entry) != RowStatus.PAUSED) return Stream.empty();
            return end(entry).stream().flatMap(end -> forms.getOrDefault(end.user(), List.of()).stream());
        }

        /// Returns a form of an attempt that had expired when its run ended, so that
        /// nobody has answered it.
        Optional<FormEvent> formExpired(String user, Optional<Instant> end) {
            var latest = end.map(Times::text).orElse(""); // times sort as text, an empty text before all of them
            return forms.getOrDefault(user, List.of()).stream()
                    .filter(form -> !form.until().isEmpty() && form.until().compareTo(latest) <= 0).findFirst();
        }

        /// Returns whether another retry is unlikely to help, because Dify refused the row with an
        /// HTTP 4xx status, or it had more than one attempt.
        boolean isPermanent(int entry) {
            return attemptsByRow.get(entry) > 1 || end(entry).filter(end -> end.last().http() / 100 == 4).isPresent();
        }

        private Stream<Sent> all(Predicate<State> which) {
            return sent.values().stream().flatMap(List::stream).filter(one -> which.test(one.state));
        }

        /// Returns whether the log already records this attempt as not started.
        boolean isClosed(Attempt attempt, String outcome) {
            var closed = EnumSet.of(State.NOT_STARTED, State.RESENT);
            return NOT_STARTED.contains(outcome) && find(attempt.row().id(), attempt.user())
                    .filter(one -> closed.contains(one.state)).isPresent();
        }

        /// Counts the attempts that have no end in the log. They are running, or were interrupted.
        /// An attempt of a row that has succeeded otherwise does not matter any more.
        long inFlight() {
            return all(state -> state == State.OPEN)
                    .filter(one -> !index.status(index.find(one.event.id())).isSuccess()).count();
        }

        /// Returns the rows whose results may be lost. They have no result, and the results file
        /// was longer before.
        List<Integer> lost() {
            return all(_ -> true).filter(one -> one.isDoubtful).map(one -> index.find(one.event.id()))
                    .filter(entry -> !index.status(entry).isSuccess()).distinct().sorted().toList();
        }

        /// Returns the attempts to look up before the row is sent again.
        List<Attempt> unresolved(Row row) {
            return sent.getOrDefault(row.id(), List.of()).stream()
                    .filter(one -> one.isAwaited() || one.state == State.UNSETTLED)
                    .map(one -> one.attempt(row)).toList();
        }

        /// Returns whether a look-up has shown the attempt's run.
        boolean isShown(Attempt attempt) {
            return find(attempt.row().id(), attempt.user()).filter(one -> one.http == 200).isPresent();
        }

        boolean isResent(Attempt attempt) {
            return find(attempt.row().id(), attempt.user())
                    .filter(one -> one.state == State.RESENT && one.isUnseen()).isPresent();
        }

        private Optional<Sent> find(String id, String user) {
            for (var one : sent.getOrDefault(id, List.of())) // no stream, see [#remove]
                if (one.event.user().equals(user)) return Optional.of(one);
            return Optional.empty();
        }

        Map<Integer, List<Sent>> awaited() {
            return all(_ -> true).filter(Sent::isAwaited)
                    .collect(Collectors.groupingBy(one -> index.find(one.event.id())));
        }

        /// Returns when a stream started that was sent after this attempt's, or empty if none has.
        Optional<Instant> passedAt(String user) {
            return Optional.ofNullable(passedAt.get(user));
        }

        /// Returns for each row, by its entry, the attempt to look up before the row is sent. This
        /// is the most urgent attempt, or the last of several that are equally urgent. A row has
        /// several if their results are lost.
        Map<Integer, Sent> unresolvedByRow() {
            var all = new HashMap<Integer, Sent>();
            all(state -> state != State.RESENT).forEach(one -> {
                int entry = index.find(one.event.id());
                if (entry >= 0) all.merge(entry, one, (earlier, later) ->
                        later.state.compareTo(earlier.state) >= 0 ? later : earlier);
            });
            return all;
        }

        LookUp lookUp(Sent one, Row row, Instant now, Duration timeout) {
            var symptom = symptom(one);
            // the first part of the cause, because the second is why the last look-up failed
            var why = one.state == State.UNSETTLED && ends.containsKey(row.index())
                    ? cause(row.index()).split("; ")[0] : symptom.text;
            var attempt = one.attempt(row).limitedTo(now);
            return new LookUp(attempt, Purpose.OUTCOME, one.reported(symptom, why),
                    new Verdict.Unresolved(symptom, why)).within(attempt.at(), attempt.at().plus(timeout));
        }

        /// Returns why an attempt of an earlier session has no outcome. If its task was asked to
        /// stop, `stopped` does not mean that the row failed.
        private Symptom symptom(Sent one) {
            if (one.isDoubtful) return Symptom.LOST_RESULT;
            boolean isStopped = one.run.filter(run -> stoppedTasks.contains(run.task())).isPresent();
            return isStopped ? Symptom.INTERRUPTED : Symptom.CRASH;
        }

        ModePolicy modePolicy(Mode asked, AppKind app, String version) {
            return new ModePolicy(asked, mode, app, version);
        }

        Release.Listing listing(Attempt attempt, ModePolicy modes) {
            return find(attempt.row().id(), attempt.user()).map(one -> one.isElsewhere ? Release.Listing.NOT_KNOWN
                    : modes.listing(one.server)).orElse(modes.listing);
        }
    }

    // Batch: its sessions, and the app that they belong to

    /// Identifies the server and the app of a batch's runs. With another one, the runs cannot be
    /// looked up, and their rows would be paid for twice. Apps may share a name or be renamed.
    ///
    /// @param session the last one; one that differed would have been rejected
    record Origin(BatchFiles files, Optional<SessionEvent> session) {
        /// At most this many runs are looked up to recognize the app, with one request each. A
        /// single run is not enough, because Dify may have deleted it.
        private static final int MAX_RUNS = 3;

        /// Refuses a server that differs from that of the earlier sessions, if they sent anything.
        void requireServer(String name, String adviceOfDemo) throws IOException {
            if (session.isEmpty() || session.get().dify().baseUrl().equals(name) || !runs().mayHaveStarted()) return;
            var before = session.get().dify().baseUrl();
            throw new Unusable(files.log() + ": this batch was started " + place(before) + ", not " + place(name),
                    before.equals("demo") ? adviceOfDemo : "use that URL, or choose another -o");
        }

        /// Describes a server for a message. The log has `demo` as the URL of the demo, whose port
        /// changes.
        private static String place(String baseUrl) {
            return baseUrl.equals("demo") ? "with --demo" : "on " + baseUrl;
        }

        /// Creates the refusal for a key or app id that is new to this batch.
        ///
        /// @param runs     the recorded runs, none of which this app has
        /// @param isSameId whether only the key differs
        Unusable otherApp(Runs runs, boolean isSameId) {
            var reason = runs.newest().isEmpty() ? "no recorded run can show whether the app is the same"
                    : "this app has none of the last " + Text.count(runs.newest().size(), "recorded run")
                            + ": it is another app, or Dify has deleted its runs";
            return new Unusable(files.log() + ": this batch was started with another "
                    + (isSameId ? "key" : "app id (DIFY_APP_ID)") + ", and " + reason,
                    "use that app's key and id, or start a new batch with 'run --fresh', which runs all rows, "
                            + "and you pay for them, again");
        }

        /// Identifies a run that the files record. For a blocking chatflow they record no run id,
        /// but its message can be found by its user.
        record Recorded(String id, String user) {}

        /// Holds the runs by which the batch's app can be recognized.
        ///
        /// @param mayHaveStarted whether any row was sent, which may have started a run
        /// @param newest         the newest runs; runs with a result are preferred, because they
        ///                       certainly took place
        record Runs(boolean mayHaveStarted, Collection<Recorded> newest) {}

        /// Reads the runs by which the batch's app can be recognized. The results come last,
        /// because the runs that are added last are kept.
        Runs runs() throws IOException {
            var newest = new LinkedHashMap<String, Recorded>(); // by user, so that each attempt counts once
            var madeUp = new HashSet<String>();
            var isSent = new AtomicBoolean();
            Event.scan(files.log(), (event, _) -> {
                if (event instanceof AttemptEvent) isSent.set(true);
                if (event instanceof RunEvent run) {
                    // Dify 1.16 makes up the run of a row that it refuses in a
                    // stream, and cannot find it later
                    if (new RunRef(run.run(), run.task()).isMadeUp()) madeUp.add(run.run());
                    else add(newest, run.run(), run.user());
                }
                if (event instanceof EndEvent end && !end.last().run().isEmpty() && !madeUp.contains(end.last().run()))
                    add(newest, end.last().run(), end.user());
            });
            ResultLine.scan(files.results(), false, (line, _) -> { // lines of the original tool have no user
                if (!line.user().isEmpty()) add(newest, line.run(), line.user());
            });
            return new Runs(isSent.get(), newest.values());
        }

        /// Adds a run as the newest one, and drops the oldest if there are too many.
        private static void add(LinkedHashMap<String, Recorded> newest, String run, String user) {
            newest.putLast(user, new Recorded(run, user));
            if (newest.size() > MAX_RUNS) newest.pollFirstEntry();
        }
    }

    // Batch: single rows

    /// Remembers where in the files the lines of each row are, in 16 bytes per line. It is filled
    /// while the files are read, and [Lines] then reads single lines, so that views need not hold
    /// the contents of all rows. The lines of a row form a chain from the last one to the first.
    static final class LineOffsets implements Batch.Listener {
        /// `newest` holds the number of each row's last line, and `before` holds for each line the
        /// number of the same row's previous line. Lines are numbered from 1, so that 0 means that
        /// there is no such line.
        private final LongList newest = new LongList(), before = new LongList();
        /// Holds the offset of each line in the log. For a line of the results, it holds -1 minus
        /// the offset, which is negative even for the first line.
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

        /// Returns the first `rows` entries in the order of their first lines in the log. Entries
        /// without a line in the log, such as results of the original tool, come last.
        List<Integer> inOrderOfSending(int rows) {
            var first = IntStream.range(0, rows).mapToLong(entry -> of(entry).stream().mapToLong(offset -> offset)
                    .filter(offset -> offset >= 0).min().orElse(Long.MAX_VALUE)).toArray();
            return IntStream.range(0, rows).boxed().sorted(Comparator.comparingLong(entry -> first[entry])).toList();
        }

        /// Reads single rows from the files of a batch, which stay open.
        record RowEnds(Batch batch, Lines results, Lines log) implements AutoCloseable {
            RowEnds(Batch batch) {
                this(batch, new Lines(batch.files().results()), new Lines(batch.files().log()));
            }

            /// Returns how the row ended, from the results or the history. A line of
            /// the results may be gone since.
            ResultLine of(int entry) {
                var last = batch.offsets().of(entry).stream().filter(offset -> offset < 0).findFirst();
                if (last.isPresent() && results.seek(-1 - last.get()).bytes().length > 0)
                    return new ResultLine(results.tree());
                return batch.history().end(entry).map(ResultLine::of).orElse(ResultLine.NONE);
            }

            record Trace(AttemptEvent attempt, List<Event> events) {
                <T extends Event> List<T> all(Class<T> kind) {
                    return events.stream().filter(kind::isInstance).map(kind::cast).toList();
                }

                String run() {
                    var runs = all(RunEvent.class);
                    return runs.isEmpty() ? "" : runs.getLast().run();
                }

                /// Returns the error text of an end, with the forms that a paused row waits for:
                /// `waits for a person: Approve refund, until 2026-01-16 13:00:00 +01:00`
                String error(EndEvent end) {
                    var forms = all(FormEvent.class);
                    if (forms.isEmpty() || !end.outcome().equals(RowStatus.PAUSED.word())) return end.last().error();
                    return end.last().error() + ": " + forms.stream().map(FormEvent::text).collect(joining("; "));
                }
            }

            /// Returns the row's attempts with their events, in the order of the log. The log has
            /// no `end` event of a success, so the end of such an attempt is made from its line in
            /// the results.
            List<Trace> traces(int entry) {
                var ends = new HashMap<String, EndEvent>(); // of successes, by user
                // by user, because each attempt has its own user
                var traces = new LinkedHashMap<String, Trace>();
                for (long offset : batch.offsets().of(entry).reversed()) {
                    if (offset < 0) results.seek(-1 - offset).read(ResultLine::read)
                            .ifPresent(success -> ends.put(success.user(), success.end()));
                    else {
                        var event = log.seek(offset).read(Event::read).orElseThrow(); // it was read before
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
    }

    /// Holds the paths of the files of a batch, or of one shard. Their names are derived from the
    /// name of the results.
    record BatchFiles(Path results, Path retry, Path log, Path lock, Optional<Shard> shard) {
        /// Matches what may precede the first line, as one character per byte: whitespace and byte
        /// order marks. A crash may have cut the last mark in half.
        private static final Pattern BLANK = Pattern.compile(
                "^(?:\u00EF\u00BB\u00BF)*(?:\u00EF\u00BB?\\z)?[ \\t\\r\\n]*");
        private static final String ELSEWHERE = "name a results file of 'run', or let it write a new one";

        /// Returns the files that belong to this output. Fails before anything is sent if one of
        /// them cannot be written safely.
        static BatchFiles of(Path output) {
            requireRegular(output); // first, because a path such as / has no name to derive others from
            var files = new BatchFiles(output, sibling(output, ".retry"), sibling(output, ".log"),
                    sibling(output, ".lock"), Shard.in(output));
            files.all().forEach(BatchFiles::requireRegular);
            return files;
        }

        /// Refuses a file that cannot be locked, cut and replaced safely. A link may point to a
        /// file of another batch, and `-` would be standard output.
        private static void requireRegular(Path file) {
            boolean exists = Storage.exists(file, LinkOption.NOFOLLOW_LINKS);
            if (file.toString().equals("-")
                    || exists && !Storage.attributes(file, LinkOption.NOFOLLOW_LINKS).isRegularFile())
                throw new Unusable(file + ": not a regular file (a folder, link, pipe or device)", ELSEWHERE);
            var folder = file.toAbsolutePath().getParent();
            if (!Storage.exists(folder) || !Storage.attributes(folder).isDirectory())
                throw new Unusable(file + ": no such folder: " + folder, "create it, or name another one");
        }

        private static Path sibling(Path output, String suffix) {
            return output.resolveSibling(output.getFileName() + suffix);
        }

        List<Path> all() {
            return List.of(results, retry, log, lock);
        }

        long resultsSize() {
            return Storage.exists(results) ? Storage.attributes(results).size() : 0;
        }

        /// Returns the ids in `<output>.retry`, each once, because the original tool repeats ids.
        /// Editors put byte order marks before a text, and `cat` of several files puts them into
        /// it, so they are removed from each line.
        List<String> retryIds() throws IOException {
            if (!Storage.exists(retry)) return List.of();
            return new String(Storage.naming(retry, () -> Files.readAllBytes(retry)), UTF_8).lines()
                    .map(line -> line.replaceFirst("^\uFEFF", "").strip())
                    .filter(id -> !id.isEmpty()).distinct().toList();
        }

        /// Writes the retry list in the CSV's order. The file is replaced as a whole, and deleted
        /// if no row is on the list. Ids that this CSV lacks come last, because a later session may
        /// have a CSV with them.
        ///
        /// @param patience as of [AtomicFile#replace]
        void writeRetryList(Index index, Duration patience) {
            var others = IntStream.range(index.rows(), index.size())
                    .filter(entry -> index.status(entry).isOnRetryList());
            var ids = IntStream.concat(index.onRetryList(), others).mapToObj(index::id).iterator();
            if (!ids.hasNext()) Storage.naming(retry, () ->
                    Platform.HERE.whenFree(patience, () -> Files.deleteIfExists(retry)));
            else AtomicFile.replace(retry, patience, out -> {
                var writer = new BufferedWriter(new OutputStreamWriter(out, UTF_8));
                while (ids.hasNext()) writer.append(ids.next()).append('\n');
                writer.flush();
            });
        }

        /// Rejects files that difyexec did not write, so that they are never changed or moved.
        void requireOurs() {
            if (!isOurs(results, ResultLine::isResult, ResultLine.BEGINNING))
                throw new Unusable(results + ": the first line is not a result of difyexec", ELSEWHERE);
            if (!isOurs(log, line -> Lines.read(Event::read, line).isPresent(), Event.BEGINNING))
                throw new Unusable(log + ": the first line is not an event of difyexec", ELSEWHERE);
        }

        /// Refuses a retry list that another program wrote. Beside results or a log, it is ours.
        void requireOurs(Index ids) throws IOException {
            boolean isAlone = head(results).isEmpty() && head(log).isEmpty();
            if (isAlone && retryIds().stream().anyMatch(id -> ids.find(id) < 0))
                throw new Unusable(retry + ": not a list of ids of this batch", ELSEWHERE);
        }

        /// Refuses an input that is a file of the batch, because the output would destroy it.
        void refuseAsInput(Path input) {
            if (all().stream().anyMatch(file -> Storage.isSame(file, input)))
                throw new Unusable(input + " is both input and output", "choose another -o");
        }

        /// @param file null if the user did not ask for it
        /// @param mark occurs in an earlier file that difyexec can write again; if
        ///             it is empty, no file has it
        record Target(Path file, String mark) {
            Path requireWritable(List<Path> kept, boolean isForced) {
                requireRegular(file);
                if (kept.stream().anyMatch(one -> Storage.isSame(one, file))) throw new Unusable(
                        file + " is a file of the batch, its input or another output", "choose another name");
                boolean isOurs = !mark.isEmpty() && Text.cut(head(file), 1_000).contains(mark);
                if (!isForced && !isOurs && Storage.exists(file)) throw new Unusable(file + " already exists",
                        "choose another name, or use --force to overwrite it");
                return file;
            }
        }

        /// Holds the choices of an earlier session about the input, the log that records them, and
        /// the path of the input if it is known.
        record Choices(Csv.Shape shape, Path log, Optional<Path> input) {}

        /// Returns the choices of the last session on these files. Without a session, returns the
        /// choices of another shard, because a new shard must read the CSV as the other shards did.
        Choices choices() {
            var whole = shard.isEmpty() ? this : of(Shard.wholeFile(results));
            for (var files : Stream.concat(Stream.of(this), Shards.started(whole)).toList()) {
                var input = Event.lastSession(files.log).map(SessionEvent::csv);
                if (input.isPresent()) return new Choices(input.get().choices(), files.log,
                        input.get().file(files.results));
            }
            return new Choices(Csv.Shape.DEFAULT, log, Optional.empty());
        }

        /// Returns whether the first line that is not blank was written by difyexec.
        /// An empty file counts as ours.
        ///
        /// @param isLine whether a complete first line is ours
        /// @param prefix matches the start of our lines, for a first line that was
        ///               cut or is longer than 64 KB
        static boolean isOurs(Path file, Predicate<byte[]> isLine, Pattern prefix) {
            var head = head(file);
            int end = head.indexOf('\n');
            if (head.isEmpty() || isLine.test((end < 0 ? head : head.substring(0, end)).getBytes(ISO_8859_1)))
                return true;
            var matcher = prefix.matcher(head);
            return end < 0 && (matcher.lookingAt() || matcher.hitEnd());
        }

        /// Reads the first 64 KB of a file, without byte order marks and leading whitespace.
        /// Returns an empty text if there is no file. Each byte becomes one character, because the
        /// end may cut a character of UTF-8 in half.
        static String head(Path file) {
            if (!Storage.exists(file)) return "";
            return Storage.naming(file, () -> {
                try (var in = Files.newInputStream(file)) {
                    return BLANK.matcher(new String(in.readNBytes(1 << 16), ISO_8859_1)).replaceFirst("");
                }
            });
        }

        boolean hasLog() {
            return !head(log).isEmpty();
        }

        /// Returns whether these are results of ours without their log, such as those that `cat`
        /// has joined. The lines of the original tool, which wrote no log, have no user.
        boolean isCopy() {
            if (hasLog()) return false;
            try (var lines = new Lines(results)) {
                while (lines.next())
                    if (lines.read(ResultLine::read).filter(line -> !line.user().isEmpty()).isPresent()) return true;
            }
            return false;
        }

        /// Refuses to send rows that another log knows: those of a shard that was merged, and those
        /// of a copy, unless the batch starts from scratch.
        void requireOwnLog(boolean isFresh) {
            if (Storage.exists(mergedLog())) throw new Unusable(mergedLog() + ": this shard was merged; its rows would "
                    + "be paid for twice", "continue with -o " + Shard.wholeFile(results) + " and without --shard");
            if (!isFresh && isCopy()) throw new Unusable(results + ": results without their log, which alone shows "
                    + "the rows that are unknown; these could be paid for twice", "restore " + log.getFileName()
                    + ", or continue the batch that this is a copy of");
        }

        /// Returns the name to which `merge`, a command of 0.4.0 and 0.5.0, renamed a shard's log.
        Path mergedLog() {
            return sibling(results, ".log.merged");
        }

        /// Returns whether a batch was started. A lock file alone does not count, because it is
        /// created before anything else.
        boolean isStarted() {
            return hasLog() || Storage.exists(retry) || !head(results).isEmpty();
        }

        /// Refuses a batch that was never started, because `status`, `export` and others have
        /// nothing to show then.
        BatchFiles requireStarted() {
            if (isStarted()) return this;
            var shard = Shards.started(this).findFirst();
            throw new Unusable(results + ": no such batch, and no .retry or .log exists", shard.map(one ->
                    "it runs in shards: choose one, such as " + one.results + ", or join their results with 'cat'")
                    .orElse("check the name, or start a batch with 'run'"));
        }

        /// Renames the files of a batch for `--fresh`, so that nothing of it is lost. The log goes
        /// last. If the process is killed before that, the next start looks its attempts up and
        /// does not send their rows again.
        void moveAside(PrintWriter err) throws IOException {
            // Windows allows no colon in a name
            var stamp = "." + Instant.now().toString().replaceAll("[-:]", "");
            for (var file : List.of(results, retry, log)) {
                if (!Storage.exists(file)) continue;
                Files.move(file, sibling(file, stamp));
                err.println("Moved " + file + " to " + sibling(file, stamp).getFileName() + ".");
            }
            AtomicFile.forceFolder(results); // so that the new names survive a power cut
        }

        /// Takes the lock of these files. A whole batch and its shards exclude each other, and so
        /// do shards of different counts, because both would send the same rows. Each process takes
        /// its own lock first and then looks at the other locks, so that at most one of two
        /// processes that start together continues.
        Lock acquire() {
            var own = Storage.naming(lock, () -> Lock.of(this));
            try {
                var whole = shard.isEmpty() ? this : of(Shard.wholeFile(results));
                if (shard.isPresent() && Lock.isHeld(whole.lock)) throw locked(whole.lock);
                for (var other : Shards.named(whole))
                    if (shard.isEmpty() || other.shard.get().count() != shard.get().count())
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

        /// Holds the lock of the one process that writes a batch. The lock has a file of its own,
        /// because a process loses its locks on a file when it closes any channel of that file.
        record Lock(BatchFiles files, FileLock held) implements AutoCloseable {
            /// Takes the lock, or refuses if another process holds it. A process that ends removes
            /// its lock file if it started no batch. If that happened between our steps, our lock
            /// is on a deleted file that excludes nobody, so it counts only if the path still leads
            /// to the file that was there before.
            static Lock of(BatchFiles files) throws IOException {
                FileChannel.open(files.lock, StandardOpenOption.CREATE, StandardOpenOption.WRITE,
                        LinkOption.NOFOLLOW_LINKS).close(); // only creates it
                var key = key(files.lock);
                var channel = FileChannel.open(files.lock, StandardOpenOption.WRITE, LinkOption.NOFOLLOW_LINKS);
                FileLock held = null;
                try {
                    var lock = channel.tryLock();
                    if (lock != null && Objects.equals(key, key(files.lock))) held = lock;
                } catch (OverlappingFileLockException | NoSuchFileException _) {
                    // this process holds it, or another one has just ended and removed it
                } finally { // otherwise a shell, which lives on, would keep the file open
                    if (held == null) channel.close();
                }
                if (held != null) return new Lock(files, held);
                throw locked(files.lock);
            }

            /// Returns the key that identifies the file itself and not its name (an inode), or null
            /// if the system has no such key. Two nulls count as the same file.
            static Object key(Path path) throws IOException {
                return Files.readAttributes(path, BasicFileAttributes.class).fileKey();
            }

            /// Returns whether a process holds this lock. A shared lock can be asked for without
            /// permission to write the file, which may belong to another user, and it is refused
            /// while another process has an exclusive one.
            static boolean isHeld(Path path) {
                return Storage.exists(path) && Storage.naming(path, () -> {
                    try (var channel = FileChannel.open(path)) { // reading is enough, see above
                        // the whole file, shared (true)
                        return channel.tryLock(0, Long.MAX_VALUE, true) == null;
                    } catch (OverlappingFileLockException _) {
                        return true; // held by this process
                    }
                });
            }

            /// Releases the lock. Removes the lock file if no batch was started; a file with text
            /// is not ours. If the lock cannot be released at first, closing the channel tries
            /// again, for the sake of a shell.
            @Override
            public void close() {
                // after the first call, the lock file may belong to another process
                if (held.isValid()) Storage.run(files.lock, () -> {
                    try (var channel = held.channel(); held) {
                        if (!files.isStarted() && channel.size() == 0) Files.deleteIfExists(files.lock);
                    }
                });
            }
        }
    }

    /// Keeps the processes of one batch from sending a row twice. The files beside its own decide
    /// what `run` and `retry` refuse:
    ///
    /// | what exists | refused |
    /// | --- | --- |
    /// | any file of the whole batch, readable or not, because it may know any row | a shard |
    /// | a shard of another count, or that read the CSV in another way | a shard |
    /// | a shard, unless it was merged and the whole batch has its log | the whole batch |
    static final class Shards {
        /// Returns the shards of the batch that have more than a lock.
        static Stream<BatchFiles> started(BatchFiles whole) {
            return named(whole).stream().filter(BatchFiles::isStarted);
        }

        /// Returns the files of all shards, of any count, that have any file. A lock file alone is
        /// enough, because a shard that is just starting has no other file. Returns none if `whole`
        /// is itself a shard.
        static List<BatchFiles> named(BatchFiles whole) {
            var output = whole.results();
            if (whole.shard().isPresent()) return List.of();
            // removes the endings of a shard's other files, and keeps names that its
            // shard would get from this output
            return Storage.list(output.toAbsolutePath().getParent()).stream().map(file -> output.resolveSibling(file
                            .getFileName().toString().replaceFirst("\\.(log|lock|retry)$", ""))).distinct()
                    .filter(file -> Shard.in(file).filter(shard -> shard.of(output).equals(file)).isPresent())
                    .map(BatchFiles::of).sorted(Comparator.comparing(BatchFiles::results)).toList();
        }

        static void refuseOthers(BatchFiles files, Csv csv) {
            if (files.shard().isPresent()) refuseShard(files, files.shard().get(), csv);
            else refuseWhole(files);
        }

        private static void refuseWhole(BatchFiles files) {
            started(files).filter(part -> !isMerged(part) || !files.hasLog()).findFirst().ifPresent(part -> {
                throw new Unusable(part.results() + ": a shard of this batch; without --shard, its rows would be paid "
                        + "for twice", "continue with --shard " + part.shard().get() + ", or choose another -o");
            });
        }

        private static boolean isMerged(BatchFiles part) {
            return !part.hasLog() && Storage.exists(part.mergedLog());
        }

        private static void refuseShard(BatchFiles files, Shard own, Csv csv) {
            var whole = BatchFiles.of(Shard.wholeFile(files.results()));
            if (whole.isStarted()) throw new Unusable(whole.results() + ": this batch was started without --shard",
                    "leave out --shard, or choose another -o; if it is a copy of the shards' results, move it away");
            started(whole).forEach(part -> {
                requireCount(part, own.count());
                Event.lastSession(part.log()).ifPresent(session -> requireSame(part, session, csv));
            });
        }

        private static void requireCount(BatchFiles other, int count) {
            int others = other.shard().get().count();
            if (others != count) throw new Unusable(other.results() + ": this batch was started in " + others
                    + " shards, not " + count, "continue with " + others + ", or choose another -o");
        }

        /// Refuses a shard whose session divided the CSV into other rows or ids. Other choices
        /// change only what a row sends.
        private static void requireSame(BatchFiles files, SessionEvent session, Csv csv) {
            if (!session.shard().equals(files.shard().get().toString())) throw new Unusable(files.log() + ": started "
                    + (session.shard().isEmpty() ? "without --shard" : "with --shard " + session.shard()),
                    "continue in the same way, restore the files' names, or choose another -o");
            if (!reading(session.csv().choices()).equals(reading(csv.shape()))) throw new Unusable(files.log()
                    + ": started with another --id-column, --encoding, --delimiter, --sheet or --header-row",
                    "use the same options for all shards");
        }

        private static List<Object> reading(Csv.Shape shape) {
            return Arrays.asList(shape.idColumn(), shape.encoding(), shape.table(), shape.headerRow(), shape.sheet());
        }
    }

    /// Appends whole lines to a file, a group in one write. The file is created with its first
    /// line. A write that fails is undone, so that no line is torn. After another program has
    /// changed the file, nothing more is written. Every error message contains the path of the
    /// file.
    static final class LineFile implements AutoCloseable {
        /// Limits the bytes that wait to be written. A smaller buffer needs more writes, and a
        /// larger one more memory.
        private static final int BUFFER_SIZE = 64 << 10;
        /// Leaves out empty fields of an event. A flush after each line would copy each line alone.
        private static final ObjectWriter WRITER = Json.MAPPER.rebuild().defaultPropertyInclusion(
                JsonInclude.Value.construct(JsonInclude.Include.NON_EMPTY, JsonInclude.Include.ALWAYS)).build().writer()
                .without(SerializationFeature.FLUSH_AFTER_WRITE_VALUE);

        private final Path path;
        private final byte[] head; // what a new file begins with: a byte order mark or nothing
        private final ByteArrayOutputStream waiting = new ByteArrayOutputStream();
        private final JsonGenerator json = Json.generator(waiting).setRootValueSeparator(null); // [#add] ends the line
        private final Disk disk;
        private FileChannel channel; // null while the file is not open
        private FileLock held;
        private Object key; // identifies the file when it was opened, see [BatchFiles.Lock#key]
        /// Holds the offset at which our last line ends, and how many bytes of the
        /// file are on disk.
        private long end = 0, forced = 0;
        private boolean cannotForce = false; // the file system does not support fsync
        private AtomicFile.NotForced failure; // of the first fsync that failed, after which nothing is written

        /// Writes a file to disk. Tests replace it with a disk that is slow or fails.
        interface Disk {
            /// @param all whether the file's attributes are written, too, as in [FileChannel#force]
            void force(FileChannel channel, boolean all) throws IOException;

            /// Returns how long a wait may last before the user is informed. A disk
            /// that works needs far less.
            default Duration patience() {
                return Duration.ofSeconds(5);
            }
        }

        /// Signals that another program changed the file. A line of ours could be lost, or be
        /// joined to one of that program.
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

        /// Returns whether the line of this event is the same after it was read and written again.
        static boolean readsBack(Event event) {
            return Storage.naming(Path.of("log"), () -> {
                var line = WRITER.writeValueAsBytes(event);
                return Arrays.equals(line, WRITER.writeValueAsBytes(Event.read(Json.MAPPER.createParser(line))));
            });
        }

        /// Adds a line of JSON, for [#write]. If many bytes wait already, they are written at once,
        /// so that long lines do not fill the memory.
        void add(Object line) {
            Storage.run(path, () -> {
                WRITER.writeValue(json, line);
                json.writeRaw('\n');
            });
            if (waiting.size() >= BUFFER_SIZE) write();
        }

        void write() {
            Storage.run(path, () -> {
                json.flush();
                if (waiting.size() > 0) append();
            });
        }

        /// Writes the lines that wait. They stop waiting before the last check,
        /// because they must not be written again.
        private void append() throws IOException {
            if (failure != null) throw failure;
            if (channel == null) open();
            requireUntouched();
            try {
                var out = Channels.newOutputStream(channel.position(end));
                if (end == 0) out.write(head);
                waiting.writeTo(out);
            } catch (IOException problem) {
                undo(problem);
                throw problem;
            }
            end += waiting.size() + (end == 0 ? head.length : 0);
            waiting.reset();
            requireUntouched(); // another program may have changed the file while we wrote
        }

        /// Cuts off the bytes that a failed write left. If this fails as well, the message still
        /// shows the first error, which is the cause.
        private void undo(IOException problem) {
            try {
                channel.truncate(end);
            } catch (IOException another) {
                problem.addSuppressed(another);
            }
        }

        /// Opens and locks the file. If a step fails, the file is closed again, and a later write
        /// may retry. `channel` is set last, because it shows that all steps have succeeded. The
        /// folder is written to disk so that a new file survives a power cut.
        private void open() throws IOException {
            var opened = Platform.HERE.openInPlace(path);
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

        private static FileLock hold(FileChannel file) throws IOException {
            try {
                var lock = Storage.tryLock(file);
                if (lock != null) return lock;
            } catch (OverlappingFileLockException _) {
                // held by this process
            }
            throw new IOException("another difyexec process is writing to it");
        }

        /// Refuses a file that another program has lengthened, cut, replaced or deleted.
        private void requireUntouched() throws IOException {
            try {
                // Windows has no keys, but a file in its place would hardly have the same size
                var there = Files.readAttributes(path, BasicFileAttributes.class);
                if (channel.size() == end && there.size() == end && Objects.equals(there.fileKey(), key)) return;
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

        /// Returns how many bytes are on disk, or appended if the file system has no fsync.
        long onDisk() {
            return forced;
        }

        /// Writes the appended lines to disk. After a failure, this is not tried again, because the
        /// disk might report a success although data is missing.
        void force() {
            if (failure != null) throw new UncheckedIOException(failure);
            if (isForced()) return;
            try {
                if (!cannotForce) disk.force(channel, false); // the file's time of change need not be on disk
            } catch (IOException problem) {
                cannotForce = AtomicFile.cannotForce(path, probe -> disk.force(probe, false));
                if (!cannotForce) throw new UncheckedIOException(failure = new AtomicFile.NotForced(path, problem));
            }
            forced = end;
        }

        /// Locks the file if it exists, against other processes that use it under any name. From
        /// then on, nobody may open it again, because closing a second channel would release the
        /// lock.
        void hold() {
            if (Storage.exists(path)) Storage.run(path, this::open);
        }

        /// Cuts off a last line that a crash or a full disk has torn, and returns an event that
        /// records this. If only the line break is missing, adds it. Afterwards the file is closed
        /// again, because it is read next.
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
            boolean isWhole = Lines.read(Lines::readTree, last).isPresent();
            if (isWhole) channel.write(ByteBuffer.wrap(new byte[] {'\n'}), end);
            else channel.truncate(end - last.length);
            return isWhole ? Optional.empty() : Optional.of(new TornEvent(Instant.now(),
                    path.getFileName().toString(), channel.size(), last.length));
        }

        /// Returns the bytes after the last line break. A file may be large and a line long, so
        /// this reads from the file's end, twice as many bytes each time. A mapped file would need
        /// less code, but a disk error would then end the process.
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

        /// Closes the file. Closing the channel also releases a lock whose own release failed;
        /// otherwise the batch would stay locked until the shell ends.
        @Override
        public void close() {
            if (channel == null) return;
            var opened = channel;
            var lock = held;
            channel = null;
            Storage.run(path, () -> {
                try (opened; lock) {}
            });
        }
    }

    /// Holds a line of the results as JSON. We write only successes; the original
    /// tool wrote other lines and fewer fields. For a view, a line can also show
    /// another outcome. Unknown texts are empty.
    record ResultLine(ObjectNode json) {
        private static final String SUCCESS = "success", PARTIAL = "partial-succeeded";
        /// Matches the beginning of a result. The original tool puts spaces in it. The possessive
        /// `*+` keeps a long text of another program from taking long.
        static final Pattern BEGINNING = Pattern.compile("""
                \\{"id": ?"[^"\\\\]*+(?:\\\\.[^"\\\\]*+)*+", ?"status": ?"success", ?"inputs": ?\\{""");
        static final ResultLine NONE = new ResultLine(Json.MAPPER.createObjectNode().put("id", "-").put("status", "-"));

        ResultLine { // a line without an id or a status counts as a line that cannot be read
            if (Json.text(json, "id").isBlank() || Json.text(json, "status").isEmpty())
                throw new IllegalArgumentException("not a result");
        }

        /// Reads a line by its tokens. `inputs` and `outputs` may be large.
        static ResultLine read(JsonParser json) throws IOException {
            var line = Json.MAPPER.createObjectNode();
            json.nextToken();
            for (var name = json.nextFieldName(); name != null; name = json.nextFieldName())
                switch (json.nextToken()) {
                    case VALUE_STRING -> line.put(name, json.getText());
                    case VALUE_NUMBER_INT, VALUE_NUMBER_FLOAT -> line.put(name, json.getDecimalValue());
                    case VALUE_TRUE -> line.put(name, true);
                    case START_ARRAY -> line.set(name, json.readValueAsTree());
                    case null, default -> json.skipChildren();
                }
            return new ResultLine(line);
        }

        static List<String> scan(Path results, boolean isComplete, Lines.Use<ResultLine> use) throws IOException {
            // "" because all lines are read
            return Lines.scan(new Lines(results, isComplete), "", ResultLine::read, use);
        }

        static boolean isResult(byte[] line) {
            return Lines.read(ResultLine::read, line).filter(ResultLine::isSuccess).isPresent();
        }

        /// Creates the line of a success. The original tool's fields come first, so
        /// that its scripts can read them.
        static ResultLine of(Attempt attempt, Response.Ran ran, Instant now) {
            var files = ran.files().orElse(Response.SavedFiles.NONE);
            var ended = now.minus(files.took());
            var took = attempt.took(ran, ended);
            // nobody saw the end of an earlier session's run, and Dify 1.9 does not
            // report how long a chatflow's run took
            boolean isTimed = !attempt.isEarlier() || took.isPositive();
            var cost = ran.usage().cost();
            var line = Json.MAPPER.createObjectNode().put("id", attempt.row().id()).put("status", SUCCESS);
            attempt.row().inputs().forEach(line.putObject("inputs")::put);
            line.set("outputs", ran.outputs());
            line.put("workflow_run_id", ran.ref().id());
            if (isTimed) line.put("executed_at", Times.text(ended));
            line.put("retry_count", attempt.tries().retries()).put("user", attempt.user());
            // a blocking chatflow returns a message without a run, which does not
            // show a partial success
            if (ran.ref().isNamed()) line.put("workflow_status",
                    ran.status() == Response.RunStatus.PARTIAL ? PARTIAL : "succeeded");
            line.put("workflow_id", ran.workflowId());
            if (isTimed) line.put("elapsed_time", ran.usage().seconds());
            line.put("total_tokens", cost.tokens()).put("total_steps", ran.usage().steps());
            if (cost.price() != null) line.put("total_price", cost.price()).put("currency", cost.currency());
            if (attempt.isEdited()) line.put("edited", true);
            files.saved().forEach(file -> line.withArray("files").add(file.toString()));
            if (!ran.message().conversation().isEmpty()) line.put("conversation_id", ran.message().conversation());
            if (!ran.message().id().isEmpty()) line.put("message_id", ran.message().id());
            line.put("fingerprint", attempt.fingerprint());
            if (isTimed) line.put("seconds", took.toMillis() / 1000.0);
            // the reason may contain a server's text
            files.missing().forEach((name, why) ->
                    line.withArray("missing").add(name + ": " + Text.printable(why, 200)));
            return new ResultLine(line);
        }

        /// Shows an outcome other than a success. The log leaves out zeros, so 0
        /// tokens are unknown.
        static ResultLine of(EndEvent end) {
            var cost = end.last().cost();
            var line = Json.MAPPER.createObjectNode().put("id", end.id()).put("status", end.outcome())
                    .put("workflow_run_id", end.last().run()).put("error", end.last().error());
            if (cost.tokens() != 0) line.put("total_tokens", cost.tokens());
            if (cost.price() != null)
                line.put("total_price", cost.price().toPlainString()).put("currency", cost.currency());
            if (end.isUnmet()) line.set("outputs", end.last().outputs());
            return new ResultLine(line);
        }

        boolean isOf(Attempt attempt) {
            return id().equals(attempt.row().id()) && user().equals(attempt.user())
                    && text("fingerprint").equals(attempt.fingerprint());
        }

        /// Converts this result to an `end` event, which the log does not contain for a success.
        /// Without a refusal or an error, `http` is 0 and `error` is empty. The size of the results
        /// is not needed.
        EndEvent end() {
            double seconds = json.path("seconds").asDouble();
            var last = new EndEvent.LastResponse(run(), 0, text("error"), seconds, Cost.of(json), null, "");
            // no view shows the time
            var time = text("executed_at").isEmpty() ? Instant.EPOCH : Times.parse(text("executed_at"));
            return new EndEvent(time, id(), user(), outcome().status().word(),
                    text("fingerprint"), last, isEdited(), 0);
        }

        String text(String name) {
            return Json.text(json, name);
        }

        String id() {
            return text("id");
        }

        String user() {
            return text("user");
        }

        String run() {
            return text("workflow_run_id");
        }

        boolean isSuccess() {
            return text("status").equals(SUCCESS);
        }

        boolean isEdited() {
            return json.path("edited").asBoolean();
        }

        Outcome outcome() {
            return text("workflow_status").equals(PARTIAL) ? Outcome.PARTIAL : Outcome.SUCCEEDED;
        }

        Map<String, JsonNode> inputs() {
            return values(json.path("inputs"));
        }

        /// Returns the outputs by name. The original tool wrote `{"outputs": {…}}`,
        /// without the status of the run.
        Map<String, JsonNode> outputs() {
            var outputs = json.path("outputs");
            var inner = outputs.path("outputs");
            return values(!json.has("workflow_status") && outputs.size() == 1 && inner.isObject() ? inner : outputs);
        }

        JsonNode at(JsonPointer pointer) {
            return outputs().getOrDefault(pointer.getMatchingProperty(), Json.MAPPER.missingNode()).at(pointer.tail());
        }

        /// Returns the values by name. A value that is not an object gets the name `outputs`, so
        /// that it is shown.
        private static Map<String, JsonNode> values(JsonNode node) {
            if (node.isMissingNode()) return Map.of();
            if (!node.isObject()) return Map.of("outputs", node);
            var values = new LinkedHashMap<String, JsonNode>();
            node.properties().forEach(value -> values.put(value.getKey(), value.getValue()));
            return values;
        }

        static String text(JsonNode value) {
            return value.isTextual() ? value.textValue() : value.isMissingNode() ? "" : value.toString();
        }
    }

    /// Represents a line of the log. Empty values are left out. `event` comes first, so
    /// that lines of one kind can be found without parsing all. A line without a
    /// required field cannot be read.
    @JsonPropertyOrder("event")
    sealed interface Event {
        /// This number grows when a line gets another meaning. A log of another format is refused.
        int FORMAT = 4;
        // Matches the beginning of a log. Its first line is a session, or records a torn line of
        // the results that was cut off before the session started.
        Pattern BEGINNING = Pattern.compile("""
                \\{"event":"(?:session|torn)","t":"\\d{4}-""");
        Map<String, Class<?>> TYPES = Stream.of(Event.class.getPermittedSubclasses())
                .collect(Collectors.toMap(Event::kind, type -> type));

        /// Reads a line. Jackson needs twice as long to create a record. Most lines
        /// are of the first kinds.
        static Event read(JsonParser json) throws IOException {
            var line = Lines.readTree(json);
            var kind = line.path("event").asText();
            return switch (kind) {
                case "attempt" -> new AttemptEvent(Times.parse(Json.text(line, "t")), line.required("id").asText(),
                        line.path("n").asInt(), Json.text(line, "user"), Mode.of(line.required("mode").asText()),
                        Json.text(line, "fingerprint"), line.path("edited").asBoolean(), line.path("results").asLong());
                case "run" -> new RunEvent(Times.parse(Json.text(line, "t")), Json.text(line, "id"),
                        Json.text(line, "user"), Json.text(line, "run"), Json.text(line, "task"));
                default -> (Event) Lines.MAPPER.treeToValue(line, TYPES.getOrDefault(kind, Event.class));
            };
        }

        /// Passes on every event of a log. Returns the places of unreadable lines.
        static List<String> scan(Path log, Lines.Use<Event> use) throws IOException {
            return Lines.scan(new Lines(log), "", Event::read, use); // "" because all lines are read
        }

        /// Passes on each session of a log, and does not parse the lines of other events.
        static void scanSessions(Path log, Consumer<SessionEvent> use) {
            Storage.naming(log, () -> Lines.scan(new Lines(log), "{\"event\":\"session\"", Event::read, (event, _) -> {
                if (event instanceof SessionEvent session) use.accept(session);
            }));
        }

        static Optional<SessionEvent> lastSession(Path log) {
            var last = new AtomicReference<SessionEvent>();
            scanSessions(log, session -> {
                session.requireFormat(log);
                last.set(session);
            });
            return Optional.ofNullable(last.get());
        }

        Instant t();

        default String id() {
            return "";
        }

        default String user() {
            return "";
        }

        /// Returns the size of the results on disk at that time, or -1 if the event lacks it. If
        /// the file is shorter later, lines were lost, and a server's empty list no longer shows
        /// that an attempt was not started.
        default long results() {
            return -1;
        }

        @JsonProperty
        default String event() {
            return kind(getClass());
        }

        /// Returns the word for a type of event in the log, such as `attempt` for [AttemptEvent].
        /// Renaming a type changes the log's format.
        private static String kind(Class<?> type) {
            return type.getSimpleName().replace("Event", "").toLowerCase(Locale.ROOT);
        }

        /// Records that a session started to work on the batch, or changed its mode.
        ///
        /// @param auto whether the tool chose the mode; a later session with *auto*
        ///             then continues in it
        record SessionEvent(Instant t, @JsonUnwrapped Program program, @JsonUnwrapped Server dify, Mode mode,
                boolean auto, @JsonUnwrapped Input csv, @JsonUnwrapped Call call, long results) implements Event {
            record Program(int format, String tool, ProcessKey process) {}

            /// @param baseUrl the server's URL, or `demo`
            /// @param version Dify's version
            record Server(String baseUrl, @JsonUnwrapped AppClaim app, @JsonProperty("server") String version,
                    @JsonProperty("app_name") @JsonInclude(JsonInclude.Include.NON_EMPTY) String name) {}

            /// @param path the path of the CSV relative to the folder of the
            ///             results; both can be moved together
            record Input(@JsonProperty("input") String path, Csv.Shape choices, String shard) {
                public Input {
                    // empty choices are left out of the line
                    if (choices == null) choices = Csv.Shape.DEFAULT;
                }

                static Input of(Batch batch) {
                    var csv = batch.csv().orElseThrow();
                    var input = csv.file().input().toAbsolutePath().normalize();
                    var folder = batch.files().results().toAbsolutePath().normalize().getParent();
                    // no relative path leads to another drive of Windows
                    boolean isSameDisk = folder.getRoot().equals(input.getRoot());
                    // with the separator that every system reads
                    var path = (isSameDisk ? folder.relativize(input) : input).toString().replace(File.separator, "/");
                    return new Input(path, csv.shape(),
                            batch.files().shard().map(Shard::toString).orElse(""));
                }

                Optional<Path> file(Path results) {
                    return Storage.path(path).filter(_ -> !path.isEmpty())
                            .map(name -> results.resolveSibling(name).normalize());
                }
            }

            /// @param typed the options of the command line, each with its value; a suggested next
            ///              command repeats the options that the batch needs
            /// @param again whether rows could be sent again although an earlier run
            ///              succeeded or may still succeed
            /// @param require the outputs that a success needs, which later sessions require, too
            record Call(List<String> typed, @JsonInclude(JsonInclude.Include.NON_DEFAULT) boolean again,
                    List<String> require) {}

            static SessionEvent of(Batch batch, Server dify, Call call) {
                var program = new Program(FORMAT, NAME_AND_VERSION, ProcessKey.own());
                return new SessionEvent(Instant.now(), program, dify, Mode.AUTO, false, Input.of(batch), call, 0);
            }

            SessionEvent with(Instant t, Mode mode, boolean auto, long results) {
                return new SessionEvent(t, program, dify, mode, auto, csv, call, results);
            }

            String shard() {
                return csv.shard();
            }

            /// Refuses a log in another format, because a line with another meaning could hide a
            /// request that was sent.
            void requireFormat(Path log) {
                var tool = program.tool();
                if (program.format() != FORMAT) throw new Unusable(log + ": log format " + program.format()
                        + ", written by "
                        + (tool.isEmpty() ? "another version" : Text.printable(tool, 60)) // a file may contain any text
                        + "; this version uses format " + FORMAT,
                        "use that version, or choose another -o");
            }
        }

        /// Identifies a process on one machine. The system may reuse the id, but the later process
        /// has another start time.
        record ProcessKey(long id, Instant started) {
            /// Returns this process, or null if the system does not report when it started.
            static ProcessKey own() {
                var own = ProcessHandle.current();
                return own.info().startInstant().map(started -> new ProcessKey(own.pid(), started)).orElse(null);
            }

            /// Returns whether another process of this machine has this id and started at this
            /// time. The times may differ by 2 seconds, because setting the clock shifts the start
            /// times that Linux reports. This process itself does not count, because it runs no
            /// session while it asks.
            boolean isOtherAlive() {
                return id != ProcessHandle.current().pid() && ProcessHandle.of(id)
                        .flatMap(process -> process.info().startInstant())
                        .filter(start -> Duration.between(start, started).abs().toSeconds() < 2).isPresent();
            }
        }

        /// Is in logs that `merge`, a command of 0.4.0 and 0.5.0, has made of those of shards. It
        /// changes nothing.
        record MergeEvent(Instant t) implements Event {}

        /// Records an attempt, before its request is sent. `n` counts the row's retries.
        record AttemptEvent(Instant t, String id, int n, String user, Mode mode, String fingerprint,
                @JsonInclude(JsonInclude.Include.NON_DEFAULT) boolean edited, long results) implements Event {
            static AttemptEvent of(Attempt attempt, long results) {
                return new AttemptEvent(attempt.at(), attempt.row().id(), attempt.tries().retries(),
                        attempt.user(), attempt.mode(), attempt.fingerprint(), attempt.isEdited(), results);
            }
        }

        /// Records that Dify started the attempt's run, with the ids of the run and of the task
        /// that can be stopped.
        record RunEvent(Instant t, String id, String user, String run, String task) implements Event {}

        /// Records that the run waits for a person, `until` a time if the form has a deadline.
        /// Anybody with its `token` can answer the form, so only the log and the view of a single
        /// row contain it.
        record FormEvent(Instant t, String id, String user, String run, String node, String token, String until)
                implements Event {
            /// Returns the form's title. A form without a token went to people
            /// elsewhere, such as by e-mail.
            String title() {
                return Text.printable(node, 60) + (token.isEmpty() ? " (answered by its recipients)" : "");
            }

            String text() {
                return title() + untilText(until);
            }

            static String untilText(String until) {
                return until.isEmpty() ? "" : ", until " + Times.local(Times.parse(until));
            }
        }

        /// Records that an attempt is over without a success. docs/files.md explains each
        /// `outcome`. `results` is always in the line, because a size of 0 has a meaning.
        @JsonInclude(JsonInclude.Include.NON_DEFAULT)
        record EndEvent(Instant t, @JsonProperty(required = true) String id, String user,
                @JsonProperty(required = true) String outcome, String fingerprint, @JsonUnwrapped LastResponse last,
                boolean edited, @JsonInclude(JsonInclude.Include.ALWAYS) long results) implements Event {
            /// Holds what the last response showed. `http` is the status of a refusal, or 0.
            /// `outputs` are those of a success that failed a requirement, otherwise null. They may
            /// be an empty object. `answer` is the text so far of an answer that was stopped.
            @JsonInclude(JsonInclude.Include.NON_DEFAULT)
            record LastResponse(String run, int http, String error, double seconds, @JsonUnwrapped Cost cost,
                    @JsonInclude(JsonInclude.Include.NON_NULL) ObjectNode outputs, String answer) {}

            /// Returns whether the run succeeded and was paid for, but failed a requirement.
            boolean isUnmet() {
                return last.outputs() != null;
            }

            /// Returns the event without its texts for memory, because those of a large batch would
            /// not fit. That it failed a requirement stays known.
            EndEvent withoutOutputs() {
                if (!isUnmet() && last.answer().isEmpty()) return this;
                var none = isUnmet() ? Json.MAPPER.createObjectNode() : null;
                var brief = new LastResponse(last.run(), last.http(), last.error(), last.seconds(), last.cost(), none,
                        "");
                return new EndEvent(t, id, user, outcome, fingerprint, brief, edited, results);
            }

            /// Returns the outcome of the row, or empty if the row stays pending.
            Optional<RowStatus> status() {
                return RowStatus.of(outcome).filter(status -> !status.isSuccess());
            }

            /// Creates the event of an attempt that has ended. The error is cut, because a server's
            /// text may have any length.
            static EndEvent of(Attempt attempt, Instant now, String outcome, Response response, String error,
                    long results) {
                var usage = response instanceof Response.Ran ran ? ran.usage() : Usage.NONE;
                ObjectNode outputs = null;
                if (response instanceof Response.Ran ran && ran.status().isSuccess()
                        && outcome.equals(RowStatus.FAILED.word())) outputs = ran.outputs();
                var last = new LastResponse(response.run().map(RunRef::id).orElse(""),
                        response instanceof Response.Refused refused ? refused.status() : 0,
                        Text.printable(error, Text.MAX_ERROR_LENGTH), attempt.took(response, now).toMillis() / 1000.0,
                        usage.cost(), outputs, response.stoppedAnswer());
                return new EndEvent(now, attempt.row().id(), attempt.user(), outcome, attempt.fingerprint(), last,
                        attempt.isEdited(), results);
            }
        }

        /// Records that the time of a form was over before anybody answered it, and
        /// the run continued.
        record ExpiredEvent(Instant t, String id, String user, String node) implements Event {}

        /// Records the HTTP status of a response that did not show the attempt's outcome. 200 means
        /// that the attempt has a run, whose result could not be kept.
        record ResponseEvent(Instant t, String id, String user, int http) implements Event {}

        /// Records that an attempt's run was looked up, and what the server reported.
        record LookEvent(Instant t, String id, String user, String run, String saw) implements Event {}

        /// Records that a look-up found a result, which was taken instead of running the row again.
        record HarvestEvent(Instant t, String user, String run) implements Event {}

        /// Records that Dify was asked to stop a task. Without a `user`, it records that the
        /// session ended, and `why` it ended early if it did.
        record StopEvent(Instant t, String why, String user, String task, long results) implements Event {
            static final String INTERRUPTED = "interrupted", TIMED_OUT = "timed out";

            /// Returns whether the session was interrupted and stopped this run. Its row has not
            /// failed but is pending again. A run that timed out has failed.
            boolean isOfInterruptedRun() {
                return !user.isEmpty() && why.equals(INTERRUPTED);
            }
        }

        /// Records that the server was full, so that at most `limit` rows run at a
        /// time from then on.
        record ThrottleEvent(Instant t, String user, String why, int limit) implements Event {}

        /// Records that the run of an attempt appeared after its row was sent again.
        record LateEvent(Instant t, @JsonProperty(required = true) String id, String user, String run, String saw)
                implements Event {}

        /// Records how many bytes of a torn last line were cut off a file, and at which offset.
        record TornEvent(Instant t, String file, long at, long bytes) implements Event {}
    }

    /// Reads the lines of a file, in order or by offset. Byte order marks before a line are
    /// skipped. `cat` of several files leaves them there. A log may have millions of lines, so
    /// bytes are searched for line breaks, and only lines that matter are parsed.
    static final class Lines implements AutoCloseable {
        /// Holds the byte order mark of UTF-8. The results begin with it, as in the original tool.
        static final byte[] BOM = {(byte) 0xEF, (byte) 0xBB, (byte) 0xBF};
        /// Reads lines of a batch. Unknown fields are ignored, because the original tool and later
        /// versions have others. Text after the JSON is an error, because it comes from two lines
        /// that were joined. Missing and null lists are empty. A line without a valid time is not
        /// ours.
        static final JsonMapper MAPPER = Json.MAPPER.rebuild()
                .disable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES)
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
        private static final ObjectReader TREE = MAPPER.readerFor(ObjectNode.class);
        /// A seek reads this many bytes of the file before its line. Rows that follow each other
        /// have their lines close together in the file, but in any order, so that the next seek
        /// often finds its line in the same page.
        private static final int SEEK_BACK = 1 << 14;

        final Path path;
        private final boolean isComplete;
        private final FileChannel file; // null if the file does not exist
        private byte[] page = new byte[1 << 16]; // a part of the file; grows if a line is longer
        /// `first` is the page's offset in the file. `number` is the number of the
        /// current line, counted from 1.
        private long first = 0, number = 0;
        /// Holds offsets in the page. `filled` is the end of its bytes. `textStart` is the start of
        /// the line's text after byte order marks, and `end` is the end of the line.
        private int filled = 0, lineStart = 0, textStart = 0, end = -1;

        Lines(Path path) {
            this(path, false);
        }

        /// @param isComplete whether no process is writing to the file
        Lines(Path path, boolean isComplete) {
            this.path = path;
            this.isComplete = isComplete;
            file = Storage.exists(path) ? Storage.naming(path, () -> FileChannel.open(path)) : null;
        }

        static ObjectNode readTree(JsonParser json) throws IOException {
            return Optional.<ObjectNode>ofNullable(TREE.readValue(json)).orElseThrow(IllegalArgumentException::new);
        }

        /// Receives the value of a line, and the line itself, which is valid only during the call.
        interface Use<T> {
            void line(T value, Lines line) throws IOException;
        }

        /// Reads each line that starts with `prefix`. Returns the places of lines that cannot be
        /// read, without a last line that is still being written. Closes the file.
        static <T> List<String> scan(Lines lines, String prefix, IOFunction<JsonParser, T> reader, Use<T> use)
                throws IOException {
            var bad = new ArrayList<String>();
            var head = prefix.getBytes(UTF_8);
            try (lines) {
                while (lines.next()) {
                    if (!lines.startsWith(head)) continue;
                    var value = lines.read(reader);
                    if (value.isPresent()) use.line(value.get(), lines);
                    else if (lines.isWhole() && !lines.isBlank()) bad.add(lines.where());
                }
            }
            return bad;
        }

        boolean next() {
            long place = first + end + 1;
            if (!find(place)) fill(place, place);
            number++;
            return end < filled || lineStart < end; // a last line may have no line break
        }

        /// Moves to the line at this offset, which is empty if the file has become shorter.
        Lines seek(long place) {
            if (place < first || place >= first + filled || !find(place)) fill(place, Math.max(0, place - SEEK_BACK));
            return this;
        }

        /// Reads a page of the file, from the offset `from`, that contains the whole
        /// line at `place`.
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

        /// Finds the line at this offset in the page. Returns false if its line break is not in the
        /// page; the last line of a file may have none. The loop looks at each byte of long files,
        /// and local variables make it faster.
        private boolean find(long place) {
            lineStart = textStart = (int) (place - first);
            var bytes = page;
            int at = lineStart, most = filled;
            while (at < most && bytes[at] != '\n') at++;
            end = at;
            while (startsWith(BOM)) textStart += BOM.length;
            return end < filled;
        }

        long place() {
            return first + lineStart;
        }

        /// Returns whether the line has its line break. Another process may still be writing it,
        /// except in a complete file.
        boolean isWhole() {
            return isComplete || end < filled;
        }

        boolean isBlank() {
            return new String(bytes(), ISO_8859_1).isBlank();
        }

        String where() {
            return path + ":" + number;
        }

        byte[] bytes() {
            return Arrays.copyOfRange(page, textStart, end);
        }

        boolean startsWith(byte[] prefix) {
            int length = prefix.length;
            return end - textStart >= length && Arrays.equals(page, textStart, textStart + length, prefix, 0, length);
        }

        <T> Optional<T> read(IOFunction<JsonParser, T> reader) {
            return read(reader, page, textStart, end - textStart);
        }

        static <T> Optional<T> read(IOFunction<JsonParser, T> reader, byte[] line) {
            return read(reader, line, 0, line.length);
        }

        ObjectNode tree() {
            return read(Lines::readTree).orElseThrow(() -> new Unusable(path
                    + ": cannot read the JSON of the line at byte " + place()));
        }

        private static <T> Optional<T> read(IOFunction<JsonParser, T> reader, byte[] line, int from, int length) {
            // Jackson would take a zero or a byte order mark (FE FF) for UTF-16; no
            // UTF-8 text begins like this
            if (length < 2 || line[from] == 0 || line[from + 1] == 0 || line[from] == -1 || line[from] == -2)
                return Optional.empty();
            try (var json = MAPPER.createParser(line, from, length)) {
                var value = reader.apply(json);
                // or two lines were joined
                return json.nextToken() == null ? Optional.of(value) : Optional.empty();
            } catch (IOException | IllegalArgumentException | DateTimeException _) { // also of 1e99999999999
                return Optional.empty();
            }
        }

        @Override
        public void close() {
            if (file != null) Storage.run(path, file);
        }
    }

    // ── Form ─────────────────────────────────────────────────────────────────

    /// Holds the workflow's form, matched with the columns of a CSV.
    ///
    /// @param isUnknown whether the form is unknown, so that all cells are sent as texts
    record Form(List<Variable> variables, Map<String, Variable> byColumn, boolean isUnknown) {
        /// Matches variables with columns: by name, and otherwise by label, which
        /// CSVs of Dify's web app have as titles.
        Form(List<Variable> variables, Collection<String> all, boolean isUnknown) {
            var byColumn = new LinkedHashMap<String, Variable>();
            var columns = Set.copyOf(all);
            for (var variable : variables)
                if (columns.contains(variable.name())) byColumn.put(variable.name(), variable);
                else if (columns.contains(variable.label())) byColumn.putIfAbsent(variable.label(), variable);
            this(List.copyOf(variables), Collections.unmodifiableMap(byColumn), isUnknown);
        }

        static Form ofText() {
            return new Form(List.of(), List.of(), true);
        }

        /// Reads the response of `GET /parameters`, in which most fields may be missing or null.
        static Form of(JsonNode parameters, List<String> columns, Variable.Reading reading) {
            var variables = new ArrayList<Variable>();
            var form = parameters.path("user_input_form");
            var system = parameters.path("system_parameters");
            for (var item : form) for (var entry : item.properties())
                variables.add(Variable.of(entry.getKey(), entry.getValue(), system, reading));
            return new Form(variables, columns, !form.isArray());
        }

        Form withQuestion(String column, List<String> columns) {
            // required (true), and not even `--allow-empty` sends it empty (false)
            var question = new Variable(column, column, Variable.QUESTION, true, false, List.of(),
                    Value.Query::new);
            return new Form(List.of(question), columns, isUnknown).with(variables, columns);
        }

        Form with(List<Variable> more, List<String> columns) {
            return new Form(Stream.concat(variables.stream(), more.stream()).toList(), columns, isUnknown);
        }

        Optional<Variable> variable(String column) {
            return Optional.ofNullable(byColumn.get(column));
        }

        Value value(String column, String cell) {
            return variable(column).map(variable -> variable.value(cell)).orElseGet(() -> new Value.Str(cell));
        }

        /// Reads a cell for its variable. A number of a workbook or of JSON always has a decimal
        /// point, even if `--decimal` sets a comma for texts.
        private Value value(Row row, String column, String cell) {
            boolean isNumber = row.typed().contains(column)
                    && variable(column).filter(variable -> variable.type().equals("number")).isPresent();
            return isNumber ? Variable.number(cell) : value(column, cell);
        }

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
                var value = cell.indexOf('\0') < 0 ? value(row, column, cell)
                        : new Value.Invalid("has a NUL character, which Dify drops; remove it");
                if (value instanceof Value.Invalid(var why, var repair))
                    problems.add(new Inspection.Problem(row.line(), csv.where(row.line(), column), row.id(),
                            csv.input(column).title(), Text.printable(cell, 60), why, repair));
            });
            return problems;
        }

        /// Returns the faults of the header. With any of them, nothing is sent. If
        /// lenient (`--allow-unmapped`), columns and variables need not match, but a
        /// chatflow still needs its question.
        ///
        /// @param fitting the selects of which the cells of a column are all options
        List<Inspection.Mismatch> faults(Csv csv, boolean isLenient, Map<String, Set<Variable>> fitting) {
            var faults = new ArrayList<Inspection.Mismatch>();
            for (var column : csv.header().repeated()) if (isUnknown || variables.stream().anyMatch(one ->
                    List.of(one.name(), one.label()).contains(column) && !csv.isNamed(one.name())))
                faults.add(new Inspection.Mismatch("several columns are named " + Text.quoted(column)
                        + "; rename all but one of them", Repair.NONE));
            if (!isLenient && !isUnknown) faults.addAll(unknownNames(csv));
            faults.addAll(missingColumns(csv, isLenient || isUnknown, fitting));
            return faults;
        }

        /// Returns a fault for each name of `--map` or `--var` that no variable has.
        private List<Inspection.Mismatch> unknownNames(Csv csv) {
            var unfilled = unfilled().stream().map(Variable::name).toList();
            var all = "; its variables are "
                    + Text.joinFirst(10, variables.stream().map(Variable::name).map(Text::quoted));
            return unmatched(csv).stream().filter(csv::isNamed).map(name -> new Inspection.Mismatch(
                    "--map or --var names " + Text.quoted(name) + ", but the workflow has no such variable"
                            + Nearest.of(name, unfilled).map(near -> "; did you mean " + Text.quoted(near) + "?")
                                    .orElse(all), Repair.NONE)).toList();
        }

        /// Returns a fault for each variable that needs a column: a question, a required variable,
        /// and one whose name a column almost has. If the workflow needs none, but would get
        /// nothing except ids, every variable needs one.
        private List<Inspection.Mismatch> missingColumns(Csv csv, boolean isLenient,
                Map<String, Set<Variable>> fitting) {
            var columns = unmatched(csv).stream().filter(column -> !csv.isNamed(column)).toList();
            var meant = meant(columns, fitting);
            var needed = unfilled().stream().filter(variable -> variable.isQuestion() || !isLenient
                    && (variable.required() || !near(columns, variable).isEmpty())).toList();
            boolean onlyIdMatches = !isLenient && byColumn.keySet().stream().allMatch(csv::isId);
            if (needed.isEmpty() && onlyIdMatches) needed = unfilled();
            if (needed.isEmpty()) return !onlyIdMatches || columns.isEmpty() ? List.of()
                    : List.of(new Inspection.Mismatch("no column but the id reaches the workflow, which has "
                            + "no variables", Repair.NONE));
            return Stream.concat(needed.stream(), meant.keySet().stream()).distinct()
                    .map(variable -> missingColumn(variable, meant.get(variable), columns)).toList();
        }

        /// Creates the fault of a variable without a column.
        ///
        /// @param meant the column that is meant for it, or null
        private Inspection.Mismatch missingColumn(Variable variable, String meant, List<String> columns) {
            var name = Text.quoted(variable.name());
            // a variable of the form has the name that the question should have
            if (byColumn.containsKey(variable.name()))
                return new Inspection.Mismatch("column " + name + " fills the variable of this name, so it cannot "
                        + "be the question; copy it to another column", Repair.NONE);
            if (meant != null) return new Inspection.Mismatch("column " + Text.quoted(meant)
                    + " fits only the variable " + name + "; use " + variable.from(meant).option(),
                    variable.from(meant));
            var missing = "no column for " + variable.words() + Text.around("; similar: ",
                    Text.joinFirst(3, near(columns, variable).stream().map(Text::quoted)), "");
            return columns.isEmpty() ? new Inspection.Mismatch(missing + "; use --var "
                    + Text.shell(variable.name() + "=VALUE"), Repair.NONE)
                    : new Inspection.Mismatch(missing, variable.from(Repair.COLUMN));
        }

        private static List<String> near(List<String> columns, Variable variable) {
            return columns.stream().filter(column -> variable.isNamed(column)
                    || Nearest.isClose(column, variable.name())).toList();
        }

        /// Returns the column that is meant for a variable: the only one with its name or label,
        /// apart from case and separators. For a select, it is otherwise the only one with nothing
        /// but options. If several columns or variables fit, none is meant.
        private Map<Variable, String> meant(List<String> columns, Map<String, Set<Variable>> fitting) {
            var meant = new LinkedHashMap<Variable, String>();
            BiPredicate<Variable, String> hasOptions = (variable, column) ->
                    fitting.getOrDefault(column, Set.of()).contains(variable);
            for (var rule : List.<BiPredicate<Variable, String>>of(Variable::isNamed, hasOptions))
                for (var variable : unfilled()) {
                    var fit = columns.stream().filter(column -> rule.test(variable, column)).toList();
                    boolean isOnly = fit.size() == 1
                            && unfilled().stream().filter(other -> rule.test(other, fit.getFirst())).count() == 1;
                    if (isOnly && !meant.containsValue(fit.getFirst())) meant.putIfAbsent(variable, fit.getFirst());
                }
            return meant;
        }

        /// Returns notes about the columns that the user should see although the rows can be sent.
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

        List<Variable> unfilled() {
            var filled = Set.copyOf(byColumn.values());
            return variables.stream().filter(variable -> !filled.contains(variable)).toList();
        }

        private List<String> unmatched(Csv csv) {
            return csv.columns().stream().filter(column -> !csv.isId(column) && !byColumn.containsKey(column))
                    .toList();
        }
    }

    /// Describes one variable of the workflow's form.
    ///
    /// @param options the values that a select takes
    /// @param reader  reads a cell; it gets an empty cell only if that is a value of this type
    record Variable(String name, String label, String type, boolean required, boolean mayBeEmpty,
            List<String> options, Function<String, Value> reader) {
        static final String QUESTION = "query";
        private static final Pattern NUMBER = Pattern.compile("[+-]?(\\d+\\.?\\d*|\\.\\d+)"),
                WITH_POINT = written('.', ','), WITH_COMMA = written(',', '.');

        /// Holds the rules for reading cells: where files are, the decimal mark of `--decimal` or
        /// null, whether the file has semicolons, and whether a required text may be empty. Excel
        /// writes semicolons where the comma is the decimal mark.
        record Reading(Folders folders, Character decimal, boolean hasSemicolons, boolean allowsEmpty) {}

        static Variable of(String type, JsonNode node, JsonNode system, Reading reading) {
            var options = texts(node.path("options"));
            int longest = node.path("max_length").asInt(0); // 0 means no limit
            Function<String, Value> reader = switch (type) {
                case "text-input", "paragraph" -> cell -> text(cell, longest);
                case "select" -> cell -> select(cell, options);
                case "number" -> cell -> number(cell, reading);
                case "checkbox" -> Variable::checkbox;
                case "json_object" -> Variable::object;
                case "file", "file-list" ->
                    new FileInput(type.equals("file-list"), reading.folders(), node, system)::read;
                // Dify's API fails if it gets a value for `external_data_tool`, and
                // other types are not known
                default -> _ -> new Value.Invalid("must be empty: Dify's API accepts no value for type " + type);
            };
            // if nothing is sent, Dify uses the default, and refuses an empty one,
            // because it is not an option
            boolean hasBadDefault = type.equals("select") && node.path("default").asText("-").isEmpty();
            return new Variable(node.path("variable").asText(), node.path("label").asText(""), type,
                    hasBadDefault || node.path("required").asBoolean(), reading.allowsEmpty(), options, reader);
        }

        /// Creates the variable of a row's files. Apps without a workflow take them
        /// beside the inputs.
        static Variable ofFiles(String column, JsonNode parameters, Reading reading) {
            var rules = Json.MAPPER.createObjectNode().put("variable", column);
            if (parameters.path("file_upload") instanceof ObjectNode known) rules.setAll(known);
            rules.set("max_length", rules.path("number_limits"));
            var files = of("file-list", rules, parameters.path("system_parameters"), reading);
            boolean takesFiles = rules.path("enabled").asBoolean(rules.at("/image/enabled").asBoolean(true));
            Function<String, Value> reader = cell -> {
                if (!takesFiles) return new Value.Invalid("must be empty: this app takes no files");
                var value = files.reader.apply(cell);
                return value instanceof Value.Several several ? new Value.Several(several.files(), true) : value;
            };
            return new Variable(column, files.label, files.type, files.required, files.mayBeEmpty, List.of(), reader);
        }

        private static List<String> texts(JsonNode array) {
            return array.valueStream().map(item -> item.isTextual() ? item.asText() : item.toString()).toList();
        }

        boolean isQuestion() {
            return type.equals(QUESTION);
        }

        /// Returns whether a column has this name or label, apart from case and separators.
        boolean isNamed(String column) {
            return Nearest.isSame(column, name) || Nearest.isSame(column, label);
        }

        /// Returns the option that fills the variable from this column.
        /// Describes the variable as the user sees it in Dify.
        String words() {
            var known = Stream.of(Text.printable(label, 60), type, required ? "required" : "")
                    .filter(part -> !part.isEmpty() && !part.equals(name)).collect(joining(", "));
            return (isQuestion() ? "the question " : "the variable ") + Text.quoted(name) + " (" + known
                    + Text.around(": ", Text.joinFirst(10, options.stream().map(Text::quoted)), "") + ")";
        }

        Repair from(String column) {
            var choice = column.equals(Repair.COLUMN) ? column : "";
            return isQuestion() ? new Repair("--query-column", column, choice)
                    : new Repair("--map", column + "=" + name, choice);
        }

        /// Returns whether the variable takes text, for which an empty cell is a value.
        boolean isText() {
            return type.equals("text-input") || type.equals("paragraph");
        }

        /// Reads a cell. Dify requires that an empty cell is left out, except for a text. A space
        /// alone is how statistics programs write a missing value. Dify accepts an empty text for
        /// a required variable, but it is more often a mistake.
        Value value(String cell) {
            boolean isEmpty = (type.equals("file-list") ? cell.replaceAll("[;\\[\\]]", "") : cell).isBlank();
            boolean isSent = !isEmpty || isText() && (!required || mayBeEmpty);
            if (isSent) return reader.apply(cell);
            if (!required) return new Value.None();
            if (isText()) return new Value.Invalid("is required: fill it, or delete the row if it is a total "
                    + "(--allow-empty sends it empty)");
            return new Value.Invalid(!type.equals("select") ? "is required" : "is empty, and Dify refuses it, because "
                    + "it is required, or its default in Dify is empty: fill it, or set a default in Dify");
        }

        private static Value text(String cell, int longest) {
            int length = cell.codePointCount(0, cell.length()); // Dify counts code points, too
            return longest == 0 || length <= longest ? new Value.Str(cell)
                    : new Value.Invalid("has " + Text.count(length, "character") + "; the limit is " + longest);
        }

        /// Reads a choice, which must be exactly one of the options, as Dify
        /// requires. Spaces around it are removed.
        private static Value select(String cell, List<String> options) {
            for (var text : List.of(cell, cell.replace('\u00A0', ' ').strip()))
                if (options.contains(text)) return new Value.Str(text);
            return new Value.Invalid("must be one of " + Text.joinFirst(20, options.stream().map(Text::quoted))
                    + Nearest.hint(cell, options));
        }

        /// Matches a number as people write it: with a currency sign, spaces, groups
        /// of three digits, and a sign in front or, as SAP writes it, at the end. A
        /// number that begins with 0 has no groups.
        private static Pattern written(char mark, char group) {
            var currency = "\\s*(?:\\p{Sc}|[A-Z]{3})?\\s*"; // one at most, before or after the digits
            return Pattern.compile("(?Us)(?!.*[+-].*[+-])(?!.*[\\p{Sc}A-Z]\\P{L}+[\\p{Sc}A-Z])\\s*[+-]?"
                    + currency + "[+-]?"
                    + "([0-9]+|[1-9][0-9]{0,2}([" + group + "'’\\s])[0-9]{3}(?:\\2[0-9]{3})*)"
                    + "(?:[" + mark + "]([0-9]+))?-?" + currency + "-?\\s*");
        }

        /// Returns the plain number that a cell means with this decimal mark, or an
        /// empty text if it means none.
        private static String plain(String cell, Pattern written) {
            var number = written.matcher(cell);
            if (!number.matches()) return "";
            var fraction = number.group(3) == null ? "" : "." + number.group(3);
            return (cell.indexOf('-') < 0 ? "" : "-") + number.group(1).replaceAll("[^0-9]", "") + fraction;
        }

        /// Reads plain decimal notation. Exponents and underscores, which Dify accepts, are
        /// refused. A cell such as `1.5e3` or `1_000` is more often an id or a mistake.
        static Value number(String cell) {
            // MongoDB exports {"$numberDecimal":"12.5"}
            var text = cell.strip().replaceFirst("^\\{\"\\$number\\w+\":\"([^\"]+)\"}$", "$1");
            return NUMBER.matcher(text).matches() ? new Value.Raw(new BigDecimal(text).toPlainString())
                    : new Value.Invalid("must be a number such as 12, -0.5 or 1234567.89");
        }

        /// Reads a number of a text file. Without `--decimal`, it must be plain, and in a file with
        /// semicolons, it must not mean another number with a decimal comma. Otherwise the fault
        /// names the option that reads it.
        private static Value number(String cell, Reading reading) {
            if (cell.indexOf('%') >= 0)
                return new Value.Invalid("must be a number without a percent sign, such as 12.5 or 0.125");
            boolean hasComma = Character.valueOf(',').equals(reading.decimal());
            boolean isUnclear = reading.decimal() == null && reading.hasSemicolons() && isAmbiguous(cell);
            var plain = number(cell);
            if (plain instanceof Value.Raw && !isUnclear && !hasComma) return plain;
            String point = plain(cell, WITH_POINT), comma = plain(cell, WITH_COMMA);
            if (hasComma && comma.isEmpty())
                return new Value.Invalid("must be a number such as 12, -0,5 or 1.234,56");
            if (hasComma) return number(comma);
            if (reading.decimal() != null) return point.isEmpty() ? plain : number(point);
            if (point.isEmpty() && comma.isEmpty()) return plain;
            var only = comma.isEmpty() ? Repair.DECIMAL_POINT : Repair.DECIMAL_COMMA;
            if (point.isEmpty() || comma.isEmpty())
                return new Value.Invalid("must be a number such as " + point + comma + " (" + only.option() + ")",
                        only);
            return new Value.Invalid("must be a plain number: " + point + " ("
                    + Repair.DECIMAL_POINT.option() + ") or " + comma + " (" + Repair.DECIMAL_COMMA.option() + ")",
                    Repair.DECIMAL);
        }

        /// Returns whether the cell is another number with a decimal point than with
        /// a decimal comma, such as `1.234`.
        static boolean isAmbiguous(String cell) {
            String point = plain(cell, WITH_POINT), comma = plain(cell, WITH_COMMA);
            return !point.isEmpty() && !comma.isEmpty() && !point.equals(comma);
        }

        static String withPoint(String cell) {
            var number = plain(cell, WITH_COMMA);
            return number.isEmpty() ? cell : number;
        }

        /// Reads a checkbox, in the words that Dify knows. Dify 1.9 accepts only JSON booleans.
        private static Value checkbox(String cell) {
            return switch (cell.strip().toLowerCase(Locale.ROOT)) {
                case "true", "yes", "1", "on" -> new Value.Raw("true");
                case "false", "no", "0", "off" -> new Value.Raw("false");
                default -> new Value.Invalid("must be true, false, yes, no, 1, 0, on or off");
            };
        }

        private static Value object(String cell) {
            return Json.parse(cell).isObject() ? new Value.Raw(cell.strip())
                    : new Value.Invalid("must be a JSON object such as {\"name\": \"value\"}");
        }

        /// Holds the folder that an `@path` is relative to, and those that it must not leave: a CSV
        /// from someone else could name any file of this machine.
        record Folders(Path base, List<Path> within) {
            /// @param more the folder of `--files`, or null
            static Folders of(Path csv, Path more) {
                var base = Files.isRegularFile(csv) ? csv.toAbsolutePath().getParent() : Path.of("").toAbsolutePath();
                try {
                    return new Folders(base, List.of(base.toRealPath(),
                            Objects.requireNonNullElse(more, base).toRealPath()));
                } catch (IOException problem) {
                    throw new Unusable((more == null ? base : "--files " + more) + ": " + Text.reasonAlone(problem),
                            "name a folder");
                }
            }
        }

        /// Reads a file that is given as a URL or as `@path`, or a list of files
        /// with `;` between them.
        ///
        /// @param rules the variable in the form, with the types and the number of
        ///              files that it takes
        record FileInput(boolean isList, Folders folders, JsonNode rules, JsonNode system) {
            /// Holds the kinds of files as Dify recognizes them by their endings.
            /// All other files are `custom`.
            private static final Map<String, List<String>> ENDINGS = Map.of(
                    "image", List.of("jpg", "jpeg", "png", "webp", "gif", "svg"),
                    "audio", List.of("mp3", "m4a", "wav", "amr", "mpga"),
                    "video", List.of("mp4", "mov", "mpeg", "webm"),
                    "document", List.of("txt", "markdown", "md", "mdx", "pdf", "html", "htm", "xlsx", "xls", "vtt",
                            "properties", "doc", "docx", "csv", "eml", "msg", "pptx", "ppt", "xml", "epub"));
            /// Matches the delimiter of a list. A `;` that no file follows is a part of a URL.
            private static final Pattern SECOND_FILE = Pattern.compile(";\\s*(@|https?://)");
            private static final String LOCAL = "local_file", REMOTE = "remote_url";

            /// Reads a cell. A list may be a JSON array, because a URL may contain `;`.
            Value read(String cell) {
                if (!isList && SECOND_FILE.matcher(cell).find())
                    return new Value.Invalid("takes one file, but the cell has several");
                if (!isList) return one(cell.strip());
                var array = Json.parse(cell);
                var parts = array.isArray() ? texts(array) : List.of(cell.split(";"));
                var values = parts.stream().map(String::strip).filter(part -> !part.isEmpty()).map(this::one).toList();
                for (var value : values) if (value instanceof Value.Invalid) return value;
                int own = rules.path("max_length").asInt(0);
                // a variable without a limit of its own has the server's, which is
                // 10 unless an operator changed it
                int most = own > 0 ? own : system.path("workflow_file_upload_limit").asInt(10);
                if (values.size() <= most) return new Value.Several(values);
                return new Value.Invalid("has " + Text.count(values.size(), "file") + "; the limit is " + most);
            }

            private Value one(String part) {
                if (part.startsWith("@")) return takes(LOCAL) ? local(part.substring(1))
                        : new Value.Invalid("takes a URL (https://…), not an uploaded file");
                return takes(REMOTE) ? remote(part)
                        : new Value.Invalid("takes an uploaded file (@path), not a URL");
            }

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
                return new Value.Invalid("must be a URL (https://…)" + (takes(LOCAL) ? " or @path" : ""));
            }

            /// Reads an `@path`. A file that Dify would refuse is refused now,
            /// before any row is sent.
            private Value local(String name) {
                try {
                    var path = folders.base().resolve(name);
                    if (!Files.isRegularFile(path))
                        return new Value.Invalid("names a file that does not exist: " + path
                                + " (put it there, or name its folder with --files)");
                    var file = path.toRealPath(); // a link must not lead out of the folders
                    if (folders.within().stream().noneMatch(file::startsWith))
                        return new Value.Invalid("names a file outside the CSV's folder: " + file
                                + " (allow another folder with --files DIR)");
                    if (!Files.isReadable(path)) return new Value.Invalid("names a file that cannot be read: " + path);
                    var kind = kind(ending(name));
                    // Dify has a separate limit for each of these kinds, in MB
                    var prefix = List.of("image", "audio", "video").contains(kind) ? kind + "_" : "";
                    long most = system.path(prefix + "file_size_limit").asLong(0), size = Files.size(file);
                    if (most > 0 && size > most << 20) return new Value.Invalid("names a file of " + (size >> 20)
                            + " MB; the limit is " + most + " MB");
                    return wrongKind(kind, ending(name))
                            .orElseGet(() -> new Value.Local(kind, path.getFileName().toString(), file));
                } catch (InvalidPathException | IOException problem) {
                    return new Value.Invalid("names a file that cannot be read: " + Text.reason(problem));
                }
            }

            /// Returns a fault if the variable does not take files of this kind. `custom` stands
            /// for the endings that the form lists.
            private Optional<Value> wrongKind(String kind, String ending) {
                var kinds = texts(rules.path("allowed_file_types"));
                var custom = kinds.contains("custom") ? endings() : List.<String>of();
                if (kinds.isEmpty() || kinds.contains(kind) && !kind.equals("custom") || custom.contains(ending))
                    return Optional.empty();
                return Optional.of(new Value.Invalid("takes files of type " + String.join(", ", kinds)
                        + Text.around(" (", String.join(", ", custom), ")") + ", not " + kind
                        + Text.around(" (.", ending, ")")));
            }

            private List<String> endings() {
                return texts(rules.path("allowed_file_extensions")).stream()
                        .map(one -> one.replaceFirst("^\\.", "").toLowerCase(Locale.ROOT)).toList();
            }

            private static String kind(String ending) {
                return ENDINGS.entrySet().stream().filter(kind -> kind.getValue().contains(ending))
                        .map(Map.Entry::getKey).findFirst().orElse("custom");
            }

            private static String ending(String name) {
                int dot = name.lastIndexOf('.');
                return dot <= name.lastIndexOf('/') ? "" : name.substring(dot + 1).toLowerCase(Locale.ROOT);
            }
        }
    }

    sealed interface Value {
        record Str(String text) implements Value {}

        /// A question is sent beside the inputs.
        record Query(String text) implements Value {}

        /// Holds JSON that is sent as is: a number with all its digits, a boolean, an object, or a
        /// file that Dify has or can fetch.
        record Raw(String json) implements Value {}

        /// Holds a file that must be uploaded first. `file` is its real path, so that the upload
        /// notices a link that was changed after the check.
        record Local(String kind, String name, Path file) implements Value {
            Value uploaded(String id) {
                return Value.file(kind, "local_file", "upload_file_id", id);
            }
        }

        /// @param isAttached whether the files are sent beside the inputs
        record Several(List<Value> files, boolean isAttached) implements Value {
            Several(List<Value> files) {
                this(files, false);
            }
        }

        record None() implements Value {}

        /// Represents a cell that the workflow would not accept. `why` continues a sentence that
        /// starts with the variable.
        record Invalid(String why, Repair repair) implements Value {
            Invalid(String why) {
                this(why, Repair.NONE);
            }
        }

        static Value file(String kind, String method, String field, String value) {
            return new Raw(Json.text(object("type", kind, "transfer_method", method, field, value)));
        }

        default Stream<Local> locals() {
            return switch (this) {
                case Local local -> Stream.of(local);
                case Several(var files, _) -> files.stream().flatMap(Value::locals);
                case Str _, Query _, Raw _, None _, Invalid _ -> Stream.empty();
            };
        }

        default Value uploaded(Map<Local, String> ids) {
            return switch (this) {
                case Local local -> local.uploaded(ids.get(local));
                case Several(var files, var isAttached) ->
                        new Several(files.stream().map(file -> file.uploaded(ids)).toList(), isAttached);
                case Str _, Query _, Raw _, None _, Invalid _ -> this;
            };
        }
    }

    record Inspection(long rows, List<Mismatch> faults, List<String> notes, List<Profile> columns,
            List<Problem> problems, List<String> nulls) {
        record Mismatch(@JsonValue String text, Repair repair) {}

        /// Holds a cell that the workflow would not accept, or a row that cannot be used, which has
        /// no `id` and `column` here.
        record Problem(long line, String place, String id, String column, String value, String message,
                Repair option) {
            Problem asOneOf(int count) {
                return count == 1 ? this : new Problem(line, place, id, column, value, message + " ("
                        + Text.count(count, "such cell") + ")", option);
            }

            Problem withDecimal(Repair decimal) {
                return option.name().equals(Repair.DECIMAL.name())
                        ? new Problem(line, place, id, column, value, message, decimal) : this;
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

        /// Returns the options that repair faults and problems, as they are typed. Each is there
        /// once, except `--map` for several variables.
        @JsonProperty List<String> options() {
            var options = new LinkedHashMap<String, String>();
            repairs().filter(Repair::isPossible).forEach(repair -> options.putIfAbsent(
                    repair.name().equals("--map") ? repair.option() : repair.name(), repair.option()));
            return List.copyOf(options.values());
        }

        private Stream<Repair> repairs() {
            return Stream.concat(faults.stream().map(Mismatch::repair), problems.stream().map(Problem::option));
        }

        /// Returns what the user must do before a command with these options, if anything.
        String stepsBefore() {
            var words = repairs().map(Repair::choice).filter(word -> !word.isEmpty()).distinct();
            var steps = Text.around("replace ", words.collect(joining(" and ")), " by your choice, then run: ");
            return repairs().allMatch(Repair::isPossible) ? steps
                    : "fix the other problems, " + (steps.isEmpty() ? "then run: " : steps);
        }

        /// Checks rows against the form, one after the other. Nothing is sent.
        static final class Inspector implements Consumer<Row> {
            /// Matches a cell that begins with a date, and a time at most follows.
            private static final Pattern DATE = Pattern.compile(
                    "\\s*(\\d{1,4}([./-])\\d{1,2}\\2\\d{1,4})([T, ][\\d:. APMZ+-]*)?\\s*");

            /// Holds what databases, R and Python write for a value that is missing.
            private static final Set<String> NULLS = Set.of("NULL", "NA", "\\N", "None", "nan");

            private final Csv csv;
            private final Form form;
            private final List<Profiler> profilers;
            private final List<Fault> repairable = new ArrayList<>();
            private final List<Inspection.Problem> problems = new ArrayList<>();
            private long rows = 0;

            Inspector(Csv csv, Form form) {
                this.csv = csv;
                this.form = form;
                var selects = form.unfilled().stream().filter(one -> !one.options().isEmpty()).toList();
                profilers = csv.inputs().stream().map(input -> new Profiler(input, selects)).toList();
            }

            @Override
            public void accept(Row row) {
                rows++;
                for (var profiler : profilers) profiler.accept(row);
                if (rows <= 3 && row.inputs().values().stream().anyMatch(cell -> cell.startsWith("{\"ImportId\"")))
                    add(new Fault(csv.file(), row.line(), 0, "further column names of a survey program",
                            "use --skip-rows " + rows, new Repair("--skip-rows", Long.toString(rows))));
                problems.addAll(form.problems(row, csv));
            }

            /// Adds a fault of the file. If no option repairs it, or it is below the header, it is
            /// a row that cannot be used, without id, column and value.
            void add(Fault fault) {
                var remedy = Text.around("; ", fault.hint(), "");
                if (fault.repair().isPossible() && fault.line() <= csv.header().line()) repairable.add(fault);
                else problems.add(new Problem(fault.line(), fault.place(), "", "", "", fault.problem() + remedy,
                        fault.repair()));
            }

            /// Returns the problems to show: of the cells of a column that an option repairs, only
            /// the first one. Rows that cannot be used are all shown.
            private List<Problem> summary() {
                Function<Problem, Object> kind = problem -> problem.column().isEmpty() || !problem.option().isPossible()
                        ? problem : List.of(problem.column(), problem.option());
                return problems.stream().collect(Collectors.groupingBy(kind, LinkedHashMap::new, Collectors.toList()))
                        .values().stream().map(alike -> alike.getFirst().asOneOf(alike.size())).toList();
            }

            /// Chooses the option for cells that are a number with either decimal
            /// mark: that of other cells, otherwise the user chooses. If other cells need both, no
            /// option helps.
            private void chooseDecimal() {
                var marks = List.of(Repair.DECIMAL_COMMA, Repair.DECIMAL_POINT);
                var needed = problems.stream().map(Problem::option).filter(marks::contains).distinct().toList();
                var chosen = needed.size() == marks.size() ? Repair.NONE
                        : needed.stream().findFirst().orElse(Repair.DECIMAL);
                problems.replaceAll(problem -> problem.withDecimal(chosen));
            }

            /// Returns all that was found. Faults of the file come before those of the form.
            Inspection inspection(boolean isLenient) {
                chooseDecimal();
                var faults = new ArrayList<Mismatch>();
                for (var fault : repairable)
                    faults.add(new Mismatch(fault.what() + "; " + fault.hint(), repair(fault)));
                faults.addAll(form.faults(csv, isLenient, profilers.stream().collect(
                        Collectors.toMap(profiler -> profiler.column, Profiler::selects))));
                var notes = Stream.of(csv.notes().stream(), form.notes(csv).stream(),
                        profilers.stream().flatMap(Profiler::notes)).flatMap(all -> all);
                return new Inspection(rows, faults, notes.toList(), profilers.stream().map(Profiler::profile).toList(),
                        summary(), profilers.stream().flatMap(Profiler::nulls).distinct().toList());
            }

            /// Returns the option that repairs a fault. A delimiter or a row of column names must
            /// fit all rows.
            private Repair repair(Fault fault) {
                boolean isTable = problems.stream().noneMatch(problem -> problem.column().isEmpty()
                        && !problem.option().isPossible());
                boolean dividesRows = List.of("--delimiter", "--header-row").contains(fault.repair().name());
                return isTable || !dividesRows ? fault.repair() : Repair.NONE;
            }

            private final class Profiler {
                final String column;
                private final String title;
                private final Optional<Variable> variable;
                private final Set<Variable> selects = new HashSet<>(); // all cells so far are their options
                private final Map<String, String> dates = new LinkedHashMap<>(); // the first of each form
                private final Map<String, Integer> nulls = new TreeMap<>(); // how often, by word
                private String example = "", ambiguous = "", exported = ""; // the first cell of each kind
                private long filled = 0, ambiguousCells = 0;
                private int longest = 0;

                Profiler(Csv.Input input, List<Variable> selects) {
                    column = input.name();
                    title = input.title();
                    variable = form.variable(column);
                    // a file without column names has the first row in their place
                    for (var one : selects) if (!one.options().contains(column)) this.selects.add(one);
                }

                Set<Variable> selects() {
                    return filled == 0 ? Set.of() : selects;
                }

                void accept(Row row) {
                    var cell = row.inputs().get(column);
                    if (cell.isBlank()) return;
                    selects.removeIf(select -> !(select.reader().apply(cell) instanceof Value.Str));
                    if (filled++ == 0) example = Text.printable(cell, 24); // it is shown in a table of 80 columns
                    longest = Math.max(longest, cell.codePointCount(0, cell.length()));
                    // a number of a workbook or of JSON cannot be misread
                    boolean isText = variable.filter(one -> one.type().equals("number")).isPresent()
                            && !row.typed().contains(column);
                    if (isText && Variable.isAmbiguous(cell) && ambiguousCells++ == 0) ambiguous = cell.strip();
                    boolean isSent = variable.isPresent() || form.isUnknown();
                    if (isSent && NULLS.contains(cell)) nulls.merge(cell, 1, Integer::sum);
                    if (exported.isEmpty() && cell.startsWith("{\"$")) exported = Text.printable(cell, 60);
                    var date = DATE.matcher(cell);
                    if (isSent && date.matches())
                        dates.putIfAbsent(date.group(1).replaceAll("\\d{4}", "y").replaceAll("\\d+", "d"),
                                Text.printable(cell.strip(), 24) + " (" + csv.where(row.line(), column) + ")");
                }

                /// Notes which cells may be misread. A decimal comma, set or suggested, multiplies
                /// cells by 1,000. An export of MongoDB has objects instead of plain values.
                Stream<String> notes() {
                    var notes = new ArrayList<String>();
                    var name = "the column " + Text.quoted(title);
                    boolean hasComma = csv.shape().hasDecimalComma() || problems.stream().anyMatch(problem ->
                            problem.column().equals(title) && problem.option() == Repair.DECIMAL_COMMA);
                    if (hasComma && ambiguousCells > 0)
                        notes.add("a decimal comma turns " + ambiguous + " in " + name + " into "
                                + Variable.withPoint(ambiguous) + " (" + Text.count(ambiguousCells, "such cell") + ")");
                    nulls.forEach((word, count) -> notes.add(name + " has " + word + " in " + Text.count(count, "cell")
                            + "; to read it as empty, pass " + new Repair("--null", word).option()));
                    if (dates.size() > 1)
                        notes.add(name + " has dates of several forms: " + String.join(", ", dates.values()));
                    if (!exported.isEmpty()) notes.add(name + " has objects of MongoDB, such as " + exported
                            + "; mongoexport --type=csv writes plain values");
                    return notes.stream();
                }

                Stream<String> nulls() {
                    return nulls.keySet().stream().map(word -> new Repair("--null", word).option());
                }

                Inspection.Profile profile() {
                    return new Inspection.Profile(title, variable.map(Variable::name).orElse(""),
                            variable.map(Variable::type).orElse(""), variable.filter(Variable::required).isPresent(),
                            filled, longest, example);
                }
            }
        }
    }

    // ── Tables ───────────────────────────────────────────────────────────────

    /// Reads a table as often as needed, one row after the other, so that it need not fit into the
    /// memory. It is a CSV (RFC 4180), or the copy of a workbook or of JSON in that form. Opening
    /// it reads the header, and [#check] reads all of it.
    ///
    /// @param edits the shell's edits
    record Csv(TextFile file, Header header, Shape shape, List<Input> inputs, Input idColumn,
            UnaryOperator<Row> edits, Optional<Shard> shard) implements AutoCloseable {
        /// The values of all columns stay in memory, so the search for an id column has a limit.
        private static final int MAX_SEARCHED_ROWS = 100_000;
        static final String NUMBERS = "#";
        /// Replaces the id of a row that has none. Such a row is only inspected and never sent.
        private static final String NO_ID = "-";
        private static final String ID_HINT = "to number the rows instead, pass --id-column '#'";
        /// Matches values that look like ids. Columns of sentences, decimals, dates or JSON may
        /// also differ in all rows, but by chance.
        private static final Pattern ID = Pattern.compile(
                "(?=.*\\d)(?!\\d{4}-\\d\\d-\\d\\d|[\\d:/-]*[.,:/][\\d.,:/-]*$)[^\\s\"{}]{1,100}");

        /// Matches names such as `_id`, `ResponseId`, `Ticket ID`, `Issue key`, `CASENUMBER` and
        /// `Belegnr`, but not `paid`.
        private static final Pattern NAMED_LIKE_ID = Pattern.compile("((^|[^\\p{L}])(?i:id|key|no|nr)"
                + "|\\p{L}(Id|ID)|(?i:number|nummer|nr)|编号|番号|^#)\\.?$");

        /// Holds a column, or a constant of `--var`. `title` is its name in the file, and `name` is
        /// the variable's name that `--map` gives to it, or the title. `place` is its index in the
        /// file, or -1 for row numbers and constants, which are not in the file.
        record Input(String title, String name, int place) {}

        enum Quote { NONE }

        /// Holds the user's choices about the records of a CSV, how many of them below the column
        /// names are left out, and which cells count as empty. A choice that is null or empty is
        /// left to the file.
        @JsonInclude(JsonInclude.Include.NON_EMPTY)
        record Table(Character delimiter, Quote quote, Long skipRows, List<String> nulls) {
            Table { // Jackson passes null for what the log lacks
                nulls = Objects.requireNonNullElse(nulls, List.of());
            }

            Table after(Table before) {
                return new Table(Shape.or(delimiter, before.delimiter), Shape.or(quote, before.quote),
                        Shape.or(skipRows, before.skipRows), Shape.or(nulls, before.nulls));
            }
        }

        /// Holds the user's choices about the input. A choice that is empty or null is left to the
        /// file. `sheet` is a worksheet, or where the rows are in JSON.
        @JsonInclude(JsonInclude.Include.NON_EMPTY)
        record Shape(String idColumn, Charset encoding, @JsonUnwrapped Table table, String sheet, Long headerRow,
                Character decimal, String queryColumn, @JsonUnwrapped Names names) {
            static final Shape DEFAULT = Json.MAPPER.convertValue(Map.of(), Shape.class);

            /// Adds the choices of earlier sessions. Typed options replace them,
            /// because people save a file again with another encoding or without its
            /// title. Some cannot be replaced. With another decimal mark or question
            /// column, rows would change unnoticed, because their hash covers only
            /// their cells. With another header row or worksheet, numbered rows would
            /// get the ids of other rows. [Csv#requireSameIds] checks the id column.
            Shape after(Shape before, Path log) {
                requireSame("--decimal", decimal, before.decimal, log);
                requireSame("--query-column", queryColumn, before.queryColumn, log);
                requireSame("--files-column", names.filesColumn(), before.names.filesColumn(), log);
                if (before.idColumn.equals(NUMBERS)) {
                    requireSame("--header-row", headerRow, before.headerRow, log);
                    requireSame("--sheet", sheet, before.sheet, log);
                    requireSame("--skip-rows", table.skipRows(), before.table.skipRows(), log);
                }
                return new Shape(or(idColumn, before.idColumn), or(encoding, before.encoding),
                        table.after(before.table), or(sheet, before.sheet), or(headerRow, before.headerRow),
                        or(decimal, before.decimal), or(queryColumn, before.queryColumn), names.after(before.names));
            }

            static void requireSame(String option, Object typed, Object before, Path log) {
                if (isChosen(typed) && isChosen(before) && !typed.equals(before))
                    throw new Unusable(log + ": this batch was started with " + option + " "
                            + Text.shell(before.toString()) + ", not " + Text.shell(typed.toString()),
                            "leave out " + option + ", or choose another -o");
            }

            private static boolean isChosen(Object choice) {
                return choice != null && !choice.equals("") && !choice.equals(List.of());
            }

            static <T> T or(T typed, T before) {
                return isChosen(typed) ? typed : before;
            }

            boolean hasDecimalComma() {
                return decimal != null && decimal == ',';
            }
        }

        /// Holds the variables that `--map` gives to columns, the constants of
        /// `--var`, and the column of files that are sent beside the inputs. In
        /// typed options, null drops an earlier mapping or constant.
        @JsonInclude(JsonInclude.Include.NON_EMPTY)
        record Names(Map<String, String> map, Map<String, String> vars, String filesColumn) {
            Names { // Jackson passes null for what the log lacks
                map = map == null ? Map.of() : map;
                vars = vars == null ? Map.of() : vars;
                filesColumn = Objects.requireNonNullElse(filesColumn, "");
            }

            /// Adds earlier names. One is dropped if its variable now gets its value
            /// from elsewhere.
            Names after(Names before) {
                var mapped = new LinkedHashMap<>(before.map);
                mapped.values().removeIf(name -> map.containsValue(name) || vars.get(name) != null);
                mapped.putAll(map);
                mapped.values().removeIf(Objects::isNull);
                var constants = new LinkedHashMap<>(before.vars);
                constants.keySet().removeIf(map::containsValue);
                constants.putAll(vars);
                constants.values().removeIf(Objects::isNull);
                return new Names(mapped, constants, filesColumn.isEmpty() ? before.filesColumn : filesColumn);
            }

            /// Creates the fault of a name that two columns have. The last option
            /// that gave it is the likely mistake.
            Faulty repeated(String name, TextFile file, long line) {
                var mapped = map.keySet().stream().filter(column -> map.get(column).equals(name))
                        .map(column -> "--map " + Text.shell(column + "="));
                var constant = vars.keySet().stream().filter(name::equals).map(same -> "--var " + Text.shell(same));
                var option = Stream.concat(mapped, constant).reduce("", (_, last) -> last);
                if (option.isEmpty()) return file.unusable(line, "duplicate column " + Text.quoted(name));
                return file.unusable(line, 0, option + ": a column already has the name " + Text.quoted(name),
                        "leave it out, or drop an earlier choice with " + option);
            }
        }

        /// Refuses another id column than before, because the rows could not be
        /// matched with their results. If the table has faults, the id column may be
        /// a guess, and [#check] refuses the table anyway.
        void requireSameIds(String before, Path log) {
            boolean isSame = idColumn.title().equalsIgnoreCase(before) && !header.titles().contains(before);
            boolean isGuess = !file.original().faults().isEmpty();
            if (!isGuess && !isSame) Shape.requireSame("--id-column", idColumn.title(), before, log);
        }

        /// Opens an input and reads its header. If that needs an option that was not typed, notes
        /// the fault and reads on as with it.
        static Csv open(Path input, Shape shape) {
            var original = new Original(input);
            try {
                var file = TextFile.of(original, shape);
                return of(file, Header.of(file, shape), shape);
            } catch (IOException | RuntimeException problem) {
                original.close();
                throw problem instanceof RuntimeException known ? known
                        : new Unusable(input + ": " + Text.reasonAlone(problem), Platform.HERE.remedy(problem));
            }
        }

        /// Gives columns the names of their variables, and adds row numbers and constants. One
        /// without a name can be chosen by its number, such as `column 3`.
        private static Csv of(TextFile file, Header header, Shape shape) {
            var inputs = new ArrayList<Input>();
            var mapped = shape.names().map();
            int id = idColumn(file, header, shape);
            if (id < 0) inputs.add(new Input(NUMBERS, NUMBERS, -1)); // before the constants, which have -1, too
            var repeated = header.repeated();
            if (id >= 0 && repeated.contains(header.title(id)))
                throw file.unusable(header.line(), "duplicate column " + Text.quoted(header.title(id)));
            for (int place = 0; place < header.names().size(); place++) {
                var title = header.title(place);
                boolean isSent = !header.names().get(place).isEmpty() && !repeated.contains(title);
                if (isSent || place == id || mapped.containsKey(title))
                    inputs.add(new Input(title, mapped.getOrDefault(title, title), place));
            }
            shape.names().vars().keySet().forEach(name -> inputs.add(new Input(name, name, -1)));
            mapped.forEach((column, name) -> {
                var option = "--map " + Text.shell(column + "=");
                if (!header.titles().contains(column)) throw file.unusable(header.line(), 0, option + Text.shell(name)
                        + ": no column " + Text.quoted(column), header.hint() + "; to drop an earlier mapping, pass "
                        + option);
            });
            var names = new HashSet<String>();
            if (header.names().stream().anyMatch(Secret.current()::occursIn))
                throw file.unusable(header.line(), "a column name contains the API key; remove it");
            for (var input : inputs)
                if (!names.add(input.name())) throw shape.names().repeated(input.name(), file, header.line());
            var idColumn = inputs.stream().filter(input -> input.place() == id).findFirst().orElseThrow();
            // the log stores these choices, so that later sessions use the same
            // columns and worksheet
            var chosen = new Shape(idColumn.title(), shape.encoding(), shape.table(),
                    Shape.or(file.sheet(), shape.sheet()), shape.headerRow(), shape.decimal(),
                    shape.queryColumn().isEmpty() ? "query" : shape.queryColumn(), shape.names());
            return new Csv(file, header, chosen, inputs, idColumn, UnaryOperator.identity(), Optional.empty());
        }

        /// Returns the index of the id column, or -1 to number the rows. If there is none, notes
        /// the fault and returns the likeliest.
        private static int idColumn(TextFile file, Header header, Shape shape) {
            var names = header.titles();
            var name = Shape.or(shape.idColumn(), "id");
            if (names.contains(name)) return names.indexOf(name);
            var found = names.stream().filter(name::equalsIgnoreCase).toList();
            if (found.size() == 1) return names.indexOf(found.getFirst());
            if (name.equals(NUMBERS)) return -1; // after the titles, because a column may have this one
            var where = Text.around(" in --header-row ", Objects.toString(shape.headerRow(), ""), "");
            // the only one, because one of several may repeat in later rows; numbers always work
            var ids = unique(file, header);
            var repair = new Repair("--id-column", ids.size() == 1 ? ids.getFirst() : NUMBERS);
            var remedies = Stream.concat(ids.stream(), Stream.of(NUMBERS)).distinct()
                    .map(column -> new Repair("--id-column", column).option()).collect(joining(", or "));
            file.add(file.fault(header.line(), "no column " + Text.quoted(name) + where, "use " + remedies
                    + (names.contains(NUMBERS) ? "; " : " to number the rows; ") + header.hint()), repair);
            return names.indexOf(repair.value());
        }

        /// Returns the columns that are named like ids and whose values look like ids and differ
        /// from each other in all rows, or in the first 100,000 rows of a longer file. Rows with
        /// less than half of the cells are left out, such as the notes that some programs write
        /// below a table.
        private static List<String> unique(TextFile file, Header header) {
            var names = header.names();
            var values = names.stream().map(_ -> new HashSet<String>()).toList();
            int rows = 0;
            try (var records = header.records(file)) {
                for (var row = records.next(); row != null && rows < MAX_SEARCHED_ROWS; row = records.next()) {
                    if (row.size() * 2 < names.size()) continue;
                    rows++;
                    for (int i = 0; i < Math.min(row.size(), names.size()); i++)
                        if (ID.matcher(row.get(i).strip()).matches()) values.get(i).add(row.get(i).strip());
                }
            } catch (Faulty _) {
                return List.of(); // the fault is found again when all rows are read
            }
            int most = rows;
            return IntStream.range(0, names.size()).filter(i -> values.get(i).size() == most)
                    .mapToObj(names::get).filter(name -> NAMED_LIKE_ID.matcher(name).find()).toList();
        }

        Csv with(UnaryOperator<Row> edits) {
            return new Csv(file, header, shape, inputs, idColumn, edits, shard);
        }

        Csv with(Optional<Shard> shard) {
            return new Csv(file, header, shape, inputs, idColumn, edits, shard);
        }

        List<String> columns() {
            return inputs.stream().map(Input::name).toList();
        }

        boolean isId(String column) {
            return idColumn.name().equals(column);
        }

        boolean isNamed(String column) {
            return shape.names().map().containsValue(column) || shape.names().vars().containsKey(column);
        }

        Input input(String column) {
            return inputs.stream().filter(input -> input.name().equals(column)).findFirst().orElseThrow();
        }

        /// Returns the merged ranges of a workbook that leave a cell of these columns empty. A
        /// range counts rows from 0.
        List<String> merged(Set<String> columns) {
            var places = inputs.stream().filter(input -> columns.contains(input.name())).map(Input::place).toList();
            return file.extras().merged().stream().filter(range -> range.getLastRow() >= header.line()
                    && places.stream().anyMatch(place -> range.containsColumn(place)
                            && (place > range.getFirstColumn() || range.getLastRow() > range.getFirstRow())))
                    .map(CellRangeAddress::toString).toList();
        }

        String where(long line, String column) {
            return file.where(line, input(column).place());
        }

        List<String> notes() {
            var notes = new ArrayList<String>();
            if (header.prefix().contains("=")) // more than byte order marks
                notes.add("using the delimiter from line 1 (\"sep=" + header.delimiter() + "\")");
            var unnamed = IntStream.range(0, header.names().size()).filter(place -> header.names().get(place).isEmpty()
                    && inputs.stream().noneMatch(input -> input.place() == place)).mapToObj(header::title).toList();
            if (!unnamed.isEmpty()) notes.add("not sending columns without a name: "
                    + Text.joinFirst(5, unnamed.stream())
                    + " (to send one: --map " + Text.shell(unnamed.getFirst() + "=VARIABLE") + ")");
            var repeated = Text.joinFirst(5, header.repeated().stream().map(Text::quoted));
            if (!repeated.isEmpty()) notes.add("not sending columns that share a name: " + repeated);
            notes.addAll(file.extras().notes());
            if (idColumn.place() < 0)
                notes.add("the rows are numbered: inserting or removing a row changes the ids of those below");
            return notes;
        }

        /// Reads every row once. Throws all faults as one. Returns how many rows
        /// belong to other shards.
        ///
        /// @param use returns what is wrong with a row's id, such as a duplicate
        int check(Function<Row, Optional<String>> use) {
            var found = new Problems(file);
            int ofOtherShards = survey(_ -> {}, use, found::add);
            found.refuse();
            return ofOtherShards;
        }

        /// Reads every row once and reports each fault. The inspector comes before the id is
        /// checked, so that a report of a row without an id includes its cells.
        int survey(Consumer<Row> inspector, Function<Row, Optional<String>> use, Consumer<Fault> onFault) {
            file.original().faults().forEach(onFault); // of the parts that were read to open it
            int misread = 0;
            try (var rows = new Rows()) {
                while (rows.next()) {
                    boolean isMisread = rows.isMisread();
                    // reported once, because the option repairs all of them
                    if (isMisread && misread++ == 0) onFault.accept(file.invalid(rows.records.line));
                    var fault = rows.shapeFault();
                    if (fault.isEmpty() && !isMisread) {
                        var row = rows.row();
                        inspector.accept(row);
                        fault = rows.keyFault(row).or(rows::idFault).or(() -> use.apply(row).map(rows::unusableId));
                    }
                    fault.ifPresent(onFault);
                }
                if (rows.number == 0) onFault.accept(file.fault(0, "no rows below the header",
                        shape.table().skipRows() == null ? "add a row" : "lower --skip-rows"));
                if (file.original().hasChanged()) onFault.accept(file.changed(0)); // rows may be missing
                return rows.ofOtherShards;
            } catch (Faulty end) {
                onFault.accept(end.fault); // after an unclosed quote, the rest cannot be divided into cells
                return 0;
            }
        }

        /// Returns the wanted rows in the file's order. Each must still have the hash of when the
        /// file was checked; otherwise a row could be sent with the cells of another one.
        Iterator<Row> rows(BitSet wanted, IntToLongFunction checked) {
            if (wanted.isEmpty()) return Collections.emptyIterator();
            var rows = new Rows();
            file.original().closeLater(rows); // the caller may stop before the last wanted row
            return wanted.stream().mapToObj(entry -> {
                boolean isThere = true;
                while (isThere && rows.index < entry) isThere = rows.next();
                boolean isRow = isThere && rows.shapeFault().isEmpty() && rows.idFault().isEmpty();
                var row = isRow ? rows.row() : null;
                if (row == null || checked.applyAsLong(entry) != row.fingerprint())
                    throw new Faulty(file.changed(rows.records.line));
                if (entry == wanted.length() - 1) rows.close(); // after the last wanted row
                return edits.apply(row);
            }).iterator();
        }

        private final class Rows implements Closeable {
            final Records records = header.records(file);
            private final Secret secret = Secret.current();
            List<String> cells;
            int index = -1, number = 0, ofOtherShards = 0;

            /// Moves to the next row. A row without an id belongs to every shard, so
            /// that each shard reports it.
            boolean next() {
                for (cells = records.next(); cells != null; cells = records.next()) {
                    cells.replaceAll(cell -> shape.table().nulls().contains(cell) ? "" : cell);
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

            /// Returns whether the row has bytes that are invalid in the encoding.
            /// We wrote a copy, so it has none.
            boolean isMisread() {
                for (var cell : cells) if (cell.indexOf(TextFile.INVALID) >= 0) return !file.isCopy();
                return false;
            }

            Optional<Fault> shapeFault() {
                var names = header.names();
                // a workbook leaves out the last cells if they are empty, and
                // Excel's CSV if their columns have no name
                boolean isWhole = cells.size() <= names.size() && (!file.sheet().isEmpty()
                        || names.stream().skip(cells.size()).allMatch(String::isEmpty));
                return isWhole ? Optional.empty() : Optional.of(file.fault(records.line,
                        Text.count(cells.size(), "cell") + ", but the header has " + names.size()
                                + " (a missing or extra delimiter, or an unclosed quote?)", ""));
            }

            Optional<Fault> keyFault(Row row) {
                for (var input : inputs) if (secret.occursIn(row.inputs().get(input.name())))
                    return Optional.of(file.faultIn(records.line, input.place(), "the cell of column "
                            + Text.quoted(input.title()) + " contains the API key; remove it"));
                return Optional.empty();
            }

            Optional<Fault> idFault() {
                var id = id();
                if (id.isEmpty()) return Optional.of(unusableId("blank id"));
                return id.chars().noneMatch(Character::isISOControl) ? Optional.empty()
                        : Optional.of(unusableId("the id " + Text.quoted(id)
                                + " contains a control character or a line break"));
            }

            Fault unusableId(String problem) {
                return new Fault(file, records.line, 0, problem, ID_HINT, new Repair("--id-column", NUMBERS));
            }

            Row row() {
                var values = LinkedHashMap.<String, String>newLinkedHashMap(inputs.size());
                for (var input : inputs) values.put(input.name(), value(input));
                var id = id().isEmpty() ? NO_ID : id();
                return new Row(index, records.line, id, values, Fingerprint.of(values), false, typed());
            }

            private Set<String> typed() {
                if (!file.isCopy()) return Set.of();
                return inputs.stream().filter(input -> input != idColumn && records.isTyped(input.place())
                        && !value(input).isEmpty()).map(Input::name).collect(Collectors.toSet());
            }

            private String value(Input input) {
                if (input == idColumn) return id(); // without spaces around it, or the row's number
                if (input.place() < 0) return shape.names().vars().get(input.name());
                return input.place() < cells.size() ? cells.get(input.place()) : "";
            }

            @Override
            public void close() {
                records.close();
            }
        }

        /// Writes these rows in the file's own form, without constants and row
        /// numbers. Other lines above the column names become empty, so that the
        /// names stay on the line that `--header-row` chose.
        void write(OutputStream to, Iterator<Row> rows) throws IOException {
            var text = new OutputStreamWriter(to, file.charset().newEncoder());
            text.write(header.prefix());
            // the column names of JSON are in no line
            text.write("\n".repeat(Math.max(0, (int) header.line() - (header.prefix().contains("=") ? 2 : 1))));
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
            file.original().close();
        }

        /// Describes the layout of a CSV.
        ///
        /// @param prefix what precedes the table: a byte order mark, the line
        ///               `sep=;`, both or nothing
        /// @param line   the line of the column names, or -1 if they have not been read yet
        /// @param names  the column names, empty for a column without a name
        record Header(String prefix, char delimiter, Table table, long line, List<String> names) {
            /// Matches a byte order mark and the line with which Excel marks the delimiter.
            private static final Pattern PREFIX = Pattern.compile("\uFEFF*((\"?)sep=(.)\\2(\r\n|\r|\n|$))?",
                    Pattern.CASE_INSENSITIVE);

            /// Finds the row of the column names. A worksheet has as many columns as
            /// its widest row.
            static Header of(TextFile file, Csv.Shape shape) {
                var prefix = PREFIX.matcher(file.start());
                prefix.lookingAt(); // always matches, if only an empty text
                long wanted = shape.headerRow() == null ? 0 : shape.headerRow();
                var table = file.start().substring(prefix.end()).lines().skip(Math.max(0, wanted - 1)).toList();
                char delimiter = likelyDelimiter(table.stream());
                if (prefix.group(3) != null) delimiter = prefix.group(3).charAt(0);
                if (shape.table().delimiter() != null) delimiter = usableDelimiter(file, shape, table, delimiter);
                if (file.isCopy()) delimiter = ','; // because we wrote the copy
                try (var records = new Header(prefix.group(), delimiter, shape.table(), -1, List.of()).records(file)) {
                    var names = records.next();
                    if (names == null) throw new Unusable(file.name() + ": empty, no header",
                            "line 1 must name the columns, such as id");
                    while (names != null && records.line < wanted) names = records.next();
                    // the given row is blank or beyond the end
                    if (shape.headerRow() != null && (names == null || records.line != wanted))
                        throw new Unusable(file.name() + ": --header-row " + wanted + ": no column names there",
                                "name the line that has the column names");
                    var header = shape.headerRow() == null ? skipTitle(file, names, records)
                            : Map.entry(records.line, names);
                    var all = new ArrayList<>(header.getValue());
                    all.addAll(Collections.nCopies(Math.max(0, file.extras().width() - all.size()), ""));
                    // the columns cannot be matched, and a name with NUL cannot be typed
                    if (all.stream().anyMatch(name -> name.indexOf(TextFile.INVALID) >= 0 || name.indexOf('\0') >= 0))
                        throw new Faulty(file.invalid(header.getKey()));
                    return new Header(prefix.group(), delimiter, shape.table(), header.getKey(),
                            all.stream().map(String::strip).toList());
                }
            }

            /// Returns the typed delimiter, unless the header has only the likely one, as the next
            /// line has. That is a fault.
            private static char usableDelimiter(TextFile file, Csv.Shape shape, List<String> table, char likely) {
                char typed = shape.table().delimiter();
                var lines = String.join("\n", table).replaceAll("\"[^\"]*\"", "x").lines()
                        .filter(line -> !line.isBlank()).limit(2).toList();
                boolean isWrong = !lines.isEmpty() && count(lines.getFirst(), typed) == 0
                        && lines.stream().allMatch(line -> count(line, likely) > 0) && !file.isCopy();
                if (!isWrong || shape.idColumn().equals(NUMBERS)) return typed;
                var repair = new Repair("--delimiter", likely == '\t' ? "tab" : "" + likely);
                file.add(file.fault(1, "the character of --delimiter is not in this line", "use "
                        + repair.option()), repair);
                return likely;
            }

            /// Returns the row of the column names with its line: the first one,
            /// unless that is a title. A title has at most half as many cells with
            /// text as the widest of the next 20 rows. The first cells of column
            /// names may be blank, because pandas writes its index without a name.
            private static Map.Entry<Long, List<String>> skipTitle(TextFile file, List<String> first,
                    Records records) {
                var rows = new TreeMap<Long, List<String>>();
                var header = Map.entry(records.line, first);
                try {
                    for (var row = records.next(); row != null && rows.size() < 20; row = records.next())
                        rows.put(records.line, row);
                } catch (Faulty _) {
                    // the fault is found again when all rows are read
                }
                long filled = cellsWithText(first), widest = rows.values().stream().mapToLong(Header::cellsWithText)
                        .max().orElse(0);
                if (filled * 2 > widest - first.stream().takeWhile(String::isBlank).count()) return header;
                var likely = rows.entrySet().stream().filter(row -> cellsWithText(row.getValue()) * 2 > widest)
                        .findFirst().orElse(header);
                var repair = new Repair("--header-row", likely.getKey().toString());
                file.add(file.fault(header.getKey(), "looks like a title, not like column names: "
                        + Text.count(filled, "cell") + ", but " + widest + " in a row below it", "use "
                        + repair.option() + " if the column names are there"), repair);
                return likely;
            }

            private static long cellsWithText(List<String> cells) {
                return cells.stream().filter(cell -> !cell.isBlank()).count();
            }

            /// Guesses the delimiter from the first line with text that contains it as often as the
            /// next line does. The table begins near the top, so only 20 lines are compared.
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
                return ",;\t".chars().mapToObj(one -> (char) one)
                        .max(Comparator.comparingLong(one -> count(line, one))).orElseThrow();
            }

            private static long count(String line, char one) {
                return line.chars().filter(c -> c == one).count();
            }

            /// Returns the file's records below the column names and the skipped rows. Lines are
            /// counted from 1, or from 2 after a line `sep=`.
            Records records(TextFile file) {
                var records = new Records(file, this, prefix.contains("=") ? 2 : 1);
                while (line >= 0 && records.next() != null && records.line < line) {
                    // a title above the column names
                }
                long skipped = line < 0 || table.skipRows() == null ? 0 : table.skipRows();
                for (long i = 0; i < skipped; i++) records.next();
                return records;
            }

            Set<String> repeated() {
                var seen = new HashSet<String>();
                return names.stream().filter(name -> !name.isEmpty() && !seen.add(name))
                        .collect(Collectors.toCollection(LinkedHashSet::new));
            }

            /// Returns the name of a column, or its number (`column 3`) if the file
            /// has no name for it.
            String title(int place) {
                return names.get(place).isEmpty() ? "column " + (place + 1) : names.get(place);
            }

            List<String> titles() {
                return IntStream.range(0, names.size()).mapToObj(this::title).toList();
            }

            String hint() {
                var named = names.stream().filter(name -> !name.isEmpty()).collect(joining(", "));
                return "the columns are " + Text.printable(named, 300);
            }
        }

        /// Reads the records of a CSV, each as a list of its cells, with their spaces and line
        /// breaks. Unclear quotes are an error. opencsv's reader lets a quote inside an unquoted
        /// cell (`5" pipe`) swallow the rows that follow, and reports neither text after a closing
        /// quote nor the line of an unclosed one.
        private static final class Records implements AutoCloseable {
            /// Limits the characters of a cell, so that an unclosed quote does not fill the memory.
            private static final int MAX_CELL_LENGTH = 64 << 20;

            private final TextFile file;
            private final Reader in;
            private final char delimiter;
            private final boolean hasQuotes;
            private final char[] buffer = new char[1 << 14]; // a part of the file
            private final StringBuilder cell = new StringBuilder(); // the cell that is being read
            private final BitSet typed = new BitSet(); // see [#isTyped]
            private int at = 0, end = 0; // the next character in the buffer, and the end of its characters
            private long next; // the line of the next character
            long line; // where the current record begins

            /// @param line the line of the first record
            Records(TextFile file, Header header, long line) {
                this.file = file;
                this.delimiter = header.delimiter();
                this.hasQuotes = header.table().quote() == null || file.isCopy();
                this.line = next = line;
                try {
                    in = file.reader();
                    in.skip(header.prefix().length());
                } catch (IOException problem) {
                    throw file.unusable(line, Text.reasonAlone(problem));
                }
            }

            /// Returns the cells of the next record that is not blank, or null at
            /// the end of the file.
            List<String> next() {
                while (true) {
                    line = next;
                    if (peek() < 0) return null;
                    if (file.isCopy()) line = takeNumber(); // messages are about the original file
                    var cells = new ArrayList<String>();
                    typed.clear();
                    do {
                        cell.setLength(0);
                        boolean isText = hasQuotes && peek() == '"';
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

            private void takeQuoted() {
                long opened = next; // for a message, because an unclosed quote is noticed only at the end
                takeIf('"');
                while (true) {
                    takeTo('"');
                    if (peek() < 0) throw unclear(opened, "unclosed quote; close it, or use --quote none");
                    if (isLineBreak(peek())) cell.append(takeLineBreak());
                    else if (takeIf('"') && takeIf('"')) cell.append('"'); // two quotes mean one
                    else break;
                }
                if (peek() >= 0 && peek() != delimiter && !isLineBreak(peek()))
                    throw unclear(next, "text after a closing quote (double a quote inside a quoted cell)");
            }

            /// Creates the fault of an unclear quote. A file with tabs often has
            /// quotes that are only text.
            private Faulty unclear(long line, String problem) {
                return new Faulty(delimiter != '\t' ? file.fault(line, problem, "") : new Fault(file, line, 0, problem,
                        "--quote none reads quotes as text", new Repair("--quote", "none")));
            }

            private static boolean isLineBreak(int c) {
                return c == '\n' || c == '\r';
            }

            /// Adds to the cell all characters before the next `stop` or line break,
            /// in whole pieces of the buffer.
            private void takeTo(char stop) {
                while (peek() >= 0) {
                    int from = at;
                    while (at < end && buffer[at] != stop && !isLineBreak(buffer[at])) at++;
                    cell.append(buffer, from, at - from);
                    if (cell.length() > MAX_CELL_LENGTH)
                        throw file.unusable(line, "a cell is larger than 64 MiB (an unclosed quote?)");
                    if (at < end) return;
                }
            }

            /// Consumes one line break (LF, CR LF or CR) and returns it.
            private String takeLineBreak() {
                next++;
                if (takeIf('\n')) return "\n";
                takeIf('\r');
                return takeIf('\n') ? "\r\n" : "\r";
            }

            private boolean takeIf(char expected) {
                if (peek() != expected) return false;
                at++;
                return true;
            }

            private int peek() {
                if (at == end) try {
                    at = 0;
                    end = Math.max(0, in.read(buffer)); // -1 at the end of the file
                } catch (IOException problem) {
                    throw file.unusable(line, Text.reasonAlone(problem));
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

    /// Holds an option that repairs a fault.
    ///
    /// @param choice the part of the value that the user must replace, or an empty text
    record Repair(String name, String value, String choice) {
        static final Repair NONE = new Repair("", ""), DECIMAL_COMMA = new Repair("--decimal", ","),
                DECIMAL_POINT = new Repair("--decimal", "."), DECIMAL = new Repair("--decimal", "MARK", "MARK");
        static final String COLUMN = "COLUMN";

        Repair(String name, String value) {
            this(name, value, "");
        }

        boolean isPossible() {
            return this != NONE;
        }

        @JsonValue
        String option() {
            return value.isEmpty() ? name : name + " " + Text.shell(value);
        }
    }

    /// Describes a fault of the input. A workbook may have very many, so its texts
    /// are made when they are needed.
    ///
    /// @param line 0 if the fault does not belong to a line
    /// @param repair the option with which the rest of the input is read, or none
    record Fault(TextFile file, long line, int column, String problem, String hint, Repair repair) {
        String place() {
            return file.where(line, column);
        }

        String what() {
            return file.prefix(line, column) + ": " + problem;
        }
    }

    /// Signals that the input cannot be used, because of one fault or several.
    static final class Faulty extends Unusable {
        final Fault fault;

        Faulty(Fault fault) {
            super(fault.what(), fault.hint());
            this.fault = fault;
        }
    }

    /// Collects faults, to report them as one with the first 20 of them, which fit on a screen.
    static final class Problems {
        private static final int SHOWN = 20;

        private final TextFile file;
        private final List<Fault> shown = new ArrayList<>();
        private long count = 0;

        Problems(TextFile file) {
            this.file = file;
        }

        void add(Fault fault) {
            if (count++ < SHOWN) shown.add(fault);
        }

        /// Throws the faults as one, if there are any. If options repair some of
        /// them, they are the hint.
        void refuse() {
            if (count == 1) throw new Faulty(shown.getFirst());
            if (count == 0) return;
            var lines = shown.stream().map(fault -> "\n  " + fault.place() + ": " + fault.problem())
                    .collect(joining());
            var rest = count > SHOWN ? "\n  … and " + (count - SHOWN) + " more" : "";
            var options = shown.stream().map(Fault::repair).filter(Repair::isPossible).map(Repair::option).distinct()
                    .collect(joining(" "));
            var hint = shown.stream().map(Fault::hint).filter(text -> !text.isEmpty()).findFirst();
            throw file.unusable(0, 0, count + " problems" + lines + rest,
                    options.isEmpty() ? hint.orElse("") : "use " + options);
        }
    }

    /// Holds the text that is read for an input.
    ///
    /// @param source opens the text from its start, as often as needed
    /// @param start  the first 64 KB of the text, to recognize its format, its
    ///               delimiter and its header
    /// @param isCopy whether the text is CSV that was made of a workbook or of JSON
    /// @param sheet  the worksheet of a workbook, or an empty text
    record TextFile(Original original, IOSupplier<InputStream> source, Charset charset, String start, boolean isCopy,
            String sheet, Extras extras) {
        record Extras(int width, List<CellRangeAddress> merged, List<String> notes) {
            static final Extras NONE = new Extras(0, List.of(), List.of());
        }

        /// Replaces bytes that are invalid in the encoding. No text contains it, so readers find
        /// where the bytes were invalid.
        static final char INVALID = '\uFFFE';
        /// Holds SO, SI and ESC, with which ISO-2022 encodings switch alphabets. Text in these has
        /// only 7 bits, so it would be valid in most other encodings, too.
        private static final String SWITCHES = "\u000E\u000F\u001B";
        private static final int START = 1 << 16; // bytes
        private static final String NO_SHEET = "", GZIP = "1f8b", ZIP = "504b0304"; // the first bytes
        /// Lists encodings that the detector reports although Excel writes a wider
        /// variant, with more characters.
        private static final Map<String, String> WIDER = Map.of("SHIFT_JIS", "windows-31j");
        /// Lists encodings that the detector does not know, or takes for others.
        private static final List<String> ENCODINGS = List.of("windows-1252", "windows-31j", "x-windows-949", "GB18030",
                "windows-1250", "windows-1251", "ISO-8859-2", "x-MacRoman");
        /// Matches a character that no text has: a control character, or one without a meaning.
        private static final Pattern MEANINGLESS = Pattern.compile("[\\x00-\\x08\\x80-\\x9F\\p{Cn}\\p{Co}]");
        private static final String SYMBOL = "[\\x80-\\u245F\\u2500-\\u2FFF"
                + "&&[^\\p{L}\\p{M}\\p{Pi}\\p{Pf}\\p{Pd}\\p{Zs}\\p{Cf}]]";
        /// Matches what text in the right encoding hardly contains: a foreign capital after a small
        /// letter, letters of two scripts in a word, three Latin letters with accents in a row, a
        /// symbol in a word, or two of them.
        private static final Pattern STRANGE = Pattern.compile("\\p{Ll}[\\p{Lu}&&[^A-Z]]"
                + "|[\\p{Ll}&&\\p{IsLatin}][\\p{L}&&\\P{IsLatin}]|[\\p{L}&&\\P{IsLatin}][\\p{Ll}&&\\p{IsLatin}]"
                + "|\\p{IsHangul}\\p{IsHan}|\\p{IsHan}\\p{IsHangul}"
                + "|[\\uFF61-\\uFF9F]\\p{IsHan}|\\p{IsHan}[\\uFF61-\\uFF9F]" // half-width Japanese
                + "|[\\p{IsLatin}&&[^\\p{ASCII}]]{3}|\\p{Sm}\\p{L}|\\p{L}" + SYMBOL + "\\p{L}|" + SYMBOL + "{2}");
        /// Holds the first bytes in hexadecimal of PNG, JPEG, PDF, .xls or an encrypted workbook,
        /// HTML and XML.
        private static final List<String> FOREIGN = List.of("89504e47", "ffd8ff", "25504446", "d0cf11e0",
                "3c68746d", "3c48544d", "3c21646f", "3c21444f", "3c3f786d");
        /// Match a first object, alone or in an array, an array whose first item is
        /// an object, and any array.
        private static final Pattern JSON = Pattern.compile("\uFEFF*\\s*(\\[\\s*)?\\{\\s*[\"}]"),
                ARRAY = Pattern.compile("\uFEFF*\\s*\\[\\s*(\\{\\s*[\"}]|\\]?\\s*\\z)"),
                BRACKET = Pattern.compile("\uFEFF*\\s*\\[");

        /// Opens an input by its first bytes, because people rename files. Only JSON lines that do
        /// not begin with an object are recognized by their name, so that the error is about JSON.
        static TextFile of(Original original, Csv.Shape shape) throws IOException {
            var source = source(original);
            byte[] start;
            try (var in = source.get()) {
                start = in.readNBytes(START);
            }
            var magic = HexFormat.of().formatHex(start, 0, Math.min(4, start.length));
            // its line breaks would have zero bytes
            boolean isNarrow = shape.encoding() != null && shape.encoding().name().matches("UTF-(16|32).*")
                    && start.length > 0 && new String(start, ISO_8859_1).indexOf(0) < 0;
            var charset = shape.encoding() == null || isNarrow ? charset(magic) : shape.encoding();
            // neither decoded nor a copy
            var bytes = new TextFile(original, source, charset, "", false, NO_SHEET, Extras.NONE);
            if (magic.startsWith(ZIP)) return Book.copy(bytes, shape);
            if (magic.startsWith(GZIP)) throw new Unusable(bytes.name() + ": is compressed by gzip",
                    "decompress it: zcat " + Text.shell(original.path().toString()) + " >data.csv");
            if (FOREIGN.stream().anyMatch(magic::startsWith))
                throw new Unusable(bytes.name() + ": is a web page, XML, an archive or another binary file",
                        "download or save it as .xlsx without a password, CSV or JSON lines");
            var repair = new Repair("--encoding", charset.name());
            var file = bytes.decoded(start);
            // otherwise, decoding has named another encoding
            if (isNarrow && file.charset == charset)
                original.add(new Fault(bytes, 1, 0, "not " + shape.encoding(), "use " + repair.option(), repair));
            boolean isJson = JSON.matcher(file.start).lookingAt() || file.isArray() || file.isNamed("jsonl|ndjson");
            if (isJson && shape.headerRow() != null) throw new Unusable(file.name() + ": --header-row "
                    + shape.headerRow() + ": JSON has no header row",
                    "leave out --header-row; choose another -o if the batch was started with it");
            return isJson ? file.rowsOfJson(shape.sheet(), Csv.Shape.or(shape.idColumn(), "id")) : file;
        }

        /// Adds the start of the text. If its bytes are invalid in the encoding, notes the fault,
        /// and decodes the whole text in the likely one.
        private TextFile decoded(byte[] bytes) {
            var text = CharBuffer.allocate(bytes.length);
            boolean isWhole = bytes.length < START;
            boolean isError = charset.newDecoder().decode(ByteBuffer.wrap(bytes), text, isWhole).isError();
            var valid = text.flip().toString().split("[" + SWITCHES + "]", 2);
            boolean isValid = !isError && valid.length == 1;
            var likely = isValid ? List.<Guess>of() : guesses();
            var used = likely.isEmpty() ? charset : likely.getFirst().charset();
            if (used != charset) original.add(invalid((valid[0] + "x").lines().count(), likely)); // x is invalid
            return new TextFile(original, source, used, new String(bytes, used), isCopy, sheet, extras);
        }

        /// Returns how to read an input as often as needed. A pipe or a device is copied, because
        /// it can be read only once.
        private static IOSupplier<InputStream> source(Original original) throws IOException {
            var input = original.path();
            if (input.toString().equals("-")) return original.copy(System.in::transferTo);
            var url = input.toString().replaceFirst("^(https?):/+", "$1://"); // a path has one slash there
            if (url.contains("://")) throw new Unusable(url + ": is a URL, not a file", "download it first: curl -O "
                    + Text.shell(url));
            if (!Storage.exists(input)) throw new Unusable(input + ": no such file",
                    "the current folder is " + Path.of("").toAbsolutePath());
            if (Files.isDirectory(input)) throw new Unusable(input + ": is a folder", "name a file in it");
            if (!Files.isReadable(input)) throw new AccessDeniedException(input.toString());
            if (Files.isRegularFile(input)) return () -> Files.newInputStream(input);
            try (var in = Files.newInputStream(input)) {
                return original.copy(in::transferTo);
            }
        }

        /// Detects the encoding by the byte order mark, or by the zero bytes of the first
        /// characters if these are ASCII. Otherwise, the text is UTF-8.
        ///
        /// @param magic the first four bytes in hexadecimal
        private static Charset charset(String magic) {
            if (magic.matches("fffe0000|(?!00)..000000")) return StandardCharsets.UTF_32LE;
            if (magic.matches("0000feff|000000(?!00)..")) return StandardCharsets.UTF_32BE;
            if (magic.matches("fffe.*|(?!00)..00(?!00)..00")) return StandardCharsets.UTF_16LE;
            return magic.matches("feff.*|00(?!00)..00(?!00)..") ? StandardCharsets.UTF_16BE : UTF_8;
        }

        /// Copies the rows as CSV. Each record begins with the number that its original has. Only
        /// texts are quoted, so that [Csv.Records] can tell them from numbers and dates.
        TextFile copyAsCsv(IOConsumer<Writer> rows) throws IOException {
            var copy = original.copy(out -> {
                var text = new BufferedWriter(Json.utf8(out));
                rows.accept(text);
                text.flush();
            });
            var start = isArray() ? "[" : ""; // messages then count the items of the array
            return new TextFile(original, copy, UTF_8, start, true, sheet, extras);
        }

        static void write(Writer out, long number, List<String> cells) throws IOException {
            out.write(number + "," + String.join(",", cells) + "\n");
        }

        static String quoted(String text) {
            return '"' + text.replace("\"", "\"\"") + '"';
        }

        TextFile with(Extras extras) {
            return new TextFile(original, source, charset, start, isCopy, sheet, extras);
        }

        /// Names this worksheet in messages. Its `start` is empty, because a workbook is not a
        /// text. Only a damaged workbook has a worksheet without a name.
        TextFile ofSheet(String sheet) {
            return new TextFile(original, source, UTF_8, "", false, Objects.requireNonNull(sheet), extras);
        }

        /// Converts JSON objects to CSV. The columns are all names that occur in any of the
        /// objects, so the text is read twice: first for the names, and then for the cells.
        ///
        /// @param chosen where the rows are in an object; an earlier session may
        ///               have had a worksheet here
        private TextFile rowsOfJson(String chosen, String idColumn) throws IOException {
            var paths = chosen.startsWith("/") ? List.of(chosen) : pathsOfRows();
            if (paths.size() > 1) throw unusable(0, 0, "the file is one object with several arrays of objects",
                    "choose one: " + Text.joinFirst(10, paths.stream().map(path -> "--rows " + Text.shell(path))));
            var path = String.join("", paths); // one at most
            var repair = new Repair("--rows", path);
            if (!path.isEmpty() && !path.equals(chosen))
                add(fault(0, "the file is one object; its rows are in an array inside it", "use " + repair.option()
                        + " if these are the rows"), repair);
            var columns = new LinkedHashSet<String>();
            // the items of an array are counted
            var file = path.isEmpty() ? this : new TextFile(original, source, charset,
                    start.replaceFirst("(?s)[^\uFEFF].*", "") + "[", isCopy, sheet, extras);
            file.read(path, (number, object) -> {
                for (var field : object.properties())
                    if (field.getKey().equalsIgnoreCase(idColumn) && field.getValue().isContainerNode())
                        throw file.unusable(number, 0, "the id is an object or a list, not a text or a number",
                                "choose another column with --id-column");
                object.fieldNames().forEachRemaining(columns::add);
            });
            if (columns.isEmpty()) throw new Unusable(name() + ": no rows", "write each row as a JSON object");
            return file.copyAsCsv(out -> {
                // 0, because the column names are in no line
                write(out, 0, columns.stream().map(TextFile::quoted).toList());
                file.read(path, (number, object) -> write(out, number, cells(columns, object)));
            });
        }

        private static List<String> cells(Collection<String> columns, JsonNode object) {
            return columns.stream().map(name -> cell(object.path(name))).toList();
        }

        /// Returns where the text has arrays of objects if it is a single object.
        private List<String> pathsOfRows() throws IOException {
            if (isArray() || isNamed("jsonl|ndjson")) return List.of();
            try (var in = readerOfJson(); var json = Json.parser(in)) {
                JsonNode object = json.readValueAsTree();
                var keys = object.valueStream().map(column -> column.propertyStream().map(Map.Entry::getKey).toList())
                        .distinct().toList();
                if (keys.size() == 1 && String.join("", keys.getFirst()).matches("\\d+"))
                    throw unusable(0, 0, "each column is an object, as DataFrame.to_json() of pandas writes it",
                            "write rows: to_json(\"data.json\", orient=\"records\")");
                return json.nextToken() == null ? pathsOfRows(object, JsonPointer.empty()).toList() : List.of();
            } catch (JsonProcessingException | NumberFormatException _) {
                return List.of(); // reported with its place when the rows are read
            }
        }

        private static Stream<String> pathsOfRows(JsonNode object, JsonPointer path) {
            return object.properties().stream().flatMap(field -> field.getValue().path(0).isObject()
                    ? Stream.of(path.appendProperty(field.getKey()).toString())
                    : pathsOfRows(field.getValue(), path.appendProperty(field.getKey())));
        }

        /// Returns whether the rows are the items of a JSON array. Items are then counted instead
        /// of lines, because several items often share a line. The first column name of a CSV may
        /// start with a bracket, too, so an array whose items are not objects is expected only in a
        /// file that is named `.json`.
        private boolean isArray() {
            return ARRAY.matcher(start).lookingAt() || BRACKET.matcher(start).lookingAt() && isNamed("json");
        }

        private boolean isNamed(String endings) {
            return input().toString().toLowerCase(Locale.ROOT).matches(".*\\.(" + endings + ")");
        }

        private interface JsonRows {
            void accept(long number, JsonNode object) throws IOException;
        }

        /// Reads one object after the other from an array or from lines. Bytes that the encoding
        /// does not allow are an error here. In the copy, which is valid UTF-8, they would be
        /// unnoticed. All values that are not objects are reported together.
        private void read(String path, JsonRows rows) throws IOException {
            var problems = new Problems(this);
            long number = 1;
            try (var in = readerOfJson(); var parser = Json.parser(in)) {
                var json = path.isEmpty() ? parser : parser.<JsonNode>readValueAsTree().at(path).traverse(
                        parser.getCodec());
                if (isArray() && json.nextToken() != JsonToken.START_ARRAY)
                    throw unusable(0, 0, "no array of rows at --rows " + path,
                            "name the path of the array, such as /data");
                while (json.nextToken() != null && json.currentToken() != JsonToken.END_ARRAY) {
                    if (!isArray()) number = json.currentTokenLocation().getLineNr();
                    JsonNode object = json.readValueAsTree();
                    if (Json.hasText(object, text -> text.indexOf(INVALID) >= 0)) throw new Faulty(invalid(number));
                    if (object.isObject()) rows.accept(number, object);
                    else problems.add(fault(number, "not a JSON object", "write {\"id\":\"1\", …}"));
                    if (isArray()) number++;
                    else number = 0;
                }
                // with a path, the parser has read one document, and there may be another
                if (json.nextToken() != null || parser.nextToken() != null)
                    throw unusable(number, "more than one JSON document in the file");
            } catch (StreamConstraintsException problem) { // it has no location
                throw unusable(number, "a JSON value that is " + Json.reason(problem));
            } catch (JsonProcessingException problem) {
                var place = problem.getLocation();
                // a row without its last brace continues in the lines below it
                throw unusable(number == 0 ? place.getLineNr() : number, 0, "not valid JSON at line "
                        + place.getLineNr() + ", column " + place.getColumnNr() + " (" + Json.reason(problem) + ")",
                        "write each row as one JSON object");
            } catch (NumberFormatException _) {
                throw unusable(number, "a number whose exponent is too large");
            }
            problems.refuse();
        }

        private Reader readerOfJson() throws IOException {
            var reader = reader();
            reader.skip(start.length() - start.replaceFirst("^\uFEFF+", "").length()); // byte order marks
            return reader;
        }

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

        Path input() {
            return original.path();
        }

        String name() {
            return original.name();
        }

        /// Opens the text. Invalid bytes are replaced, because only the caller can find out their
        /// line. So are the characters that switch alphabets, except in a copy, whose cells may
        /// have them.
        Reader reader() throws IOException {
            var text = new InputStreamReader(source.get(), charset.newDecoder()
                    .onMalformedInput(CodingErrorAction.REPLACE).onUnmappableCharacter(CodingErrorAction.REPLACE)
                    .replaceWith(String.valueOf(INVALID)));
            return isCopy ? text : new FilterReader(text) {
                @Override
                public int read(char[] buffer, int from, int length) throws IOException {
                    int count = super.read(buffer, from, length);
                    for (int i = from; i < from + count; i++)
                        if (SWITCHES.indexOf(buffer[i]) >= 0) buffer[i] = INVALID;
                    return count;
                }
            };
        }

        /// Describes where a fault is, as `line 7`, in a JSON array as `item 7`, and
        /// in a workbook as `Sheet1!C7`.
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
            return new Faulty(new Fault(this, line, column, problem, hint, Repair.NONE));
        }

        Fault fault(long line, String problem, String hint) {
            return new Fault(this, line, 0, problem, hint, Repair.NONE);
        }

        Fault faultIn(long line, int column, String problem) {
            return new Fault(this, line, column, problem, "", Repair.NONE);
        }

        Fault changed(long line) {
            return fault(line, "the file was changed while it was in use",
                    "run the same command again when the file is complete");
        }

        /// Notes a fault. The reading continues as if this option had been typed.
        void add(Fault fault, Repair repair) {
            original.add(new Fault(this, fault.line(), fault.column(), fault.problem(), fault.hint(), repair));
        }

        String prefix(long line, int column) {
            if (line == 0) return name(); // such as column names, which are in every line of JSON
            boolean isLine = sheet.isEmpty() && !isArray();
            return name() + (isLine ? ":" + line : ": " + where(line, column));
        }

        Fault invalid(long line) {
            return invalid(line, guesses());
        }

        private Fault invalid(long line, List<Guess> guesses) {
            var options = guesses.stream().map(guess -> guess.repair().option() + " (it reads " + guess.words() + ")");
            var hint = guesses.isEmpty() ? "name the encoding with --encoding" : "add "
                    + options.collect(joining(" or "));
            var repair = guesses.stream().map(Guess::repair).findFirst().orElse(Repair.NONE);
            if (guesses.size() > 1) repair = new Repair("--encoding", "ENCODING", "ENCODING");
            return new Fault(this, line, 0, "invalid " + charset, hint + ", or save the file as UTF-8", repair);
        }

        /// Holds an encoding in which the text has no fault. `text` has its first
        /// lines that are not ASCII, and `strange` is the share of what text in the
        /// right encoding hardly contains.
        private record Guess(Charset charset, String text, double strange) {
            Repair repair() {
                return new Repair("--encoding", charset.name());
            }

            String words() {
                var words = Pattern.compile("[\\p{L}\\p{M}]*[^\\p{ASCII}][^\\s,;\"]*").matcher(text).results();
                return Text.joinFirst(4, words.map(word -> Text.printable(word.group(), 20)).distinct());
            }
        }

        /// Returns the encodings that the text is probably in, unless it is the one
        /// in which it is invalid. These are those with the smallest share of
        /// strange text, and the detected one comes first. In a few rows, a detector
        /// cannot tell encodings apart, so the user decides by the words.
        private List<Guess> guesses() {
            try (var in = source.get()) {
                var name = Objects.requireNonNullElse(UniversalDetector.detectCharset(in), charset.name());
                var detected = WIDER.getOrDefault(name.toUpperCase(Locale.ROOT), name);
                var guesses = Stream.concat(Stream.of(detected), ENCODINGS.stream()).distinct()
                        .filter(Charset::isSupported).map(Charset::forName).filter(guess -> !guess.equals(charset))
                        .map(this::guess).flatMap(Optional::stream).filter(guess -> guess.strange() < 0.15)
                        .sorted(Comparator.comparingDouble(Guess::strange)).toList();
                var texts = new HashSet<String>(); // several encodings may read the same
                return guesses.stream().filter(guess -> guess.strange() == guesses.getFirst().strange()
                        && texts.add(guess.text())).limit(3).toList();
            } catch (IOException _) {
                return List.of();
            }
        }

        /// Reads all of the text in this encoding. Returns empty if a byte is invalid or becomes a
        /// control character or one without a meaning.
        private Optional<Guess> guess(Charset charset) {
            var file = new TextFile(original, source, charset, start, isCopy, sheet, extras);
            try (var all = new BufferedReader(file.reader()); var again = new BufferedReader(file.reader())) {
                if (all.lines().anyMatch(MEANINGLESS.asPredicate())) return Optional.empty();
                var text = again.lines().filter(line -> !StandardCharsets.US_ASCII.newEncoder().canEncode(line))
                        .limit(1000).collect(joining("\n"));
                long foreign = text.chars().filter(c -> c > 127).count();
                double strange = STRANGE.matcher(text).results().count() / (double) foreign;
                return Optional.of(new Guess(charset, text, strange));
            } catch (IOException | UncheckedIOException _) {
                return Optional.empty();
            }
        }
    }

    /// Holds an input, its faults, and what must be closed. A copy is a temporary file without a
    /// name, which nobody else can open, and which ends with this process.
    static final class Original implements AutoCloseable {
        /// A copy that is larger than `CHECK_EVERY` must leave `MIN_FREE` in its
        /// folder. Both are in bytes.
        private static final long MIN_FREE = 1L << 30, CHECK_EVERY = 64 << 20;

        private final Path path;
        private final IOSupplier<Long> free; // the bytes that are left in the folder for temporary files
        private final String stamp; // changes when a program saves the file
        private final List<Fault> faults = new ArrayList<>();
        private final Set<Closeable> open = Collections.newSetFromMap(new WeakHashMap<>()); // until nobody uses them

        Original(Path path, IOSupplier<Long> free) {
            this.path = path;
            this.free = free;
            this.stamp = Storage.stamp(path);
        }

        Original(Path path) {
            this(path, () -> Files.getFileStore(Path.of(System.getProperty("java.io.tmpdir"))).getUsableSpace());
        }

        Path path() {
            return path;
        }

        String name() {
            return path.toString().equals("-") ? "standard input" : path.toString();
        }

        boolean hasChanged() {
            return Files.isRegularFile(path) && !Storage.stamp(path).equals(stamp);
        }

        void add(Fault fault) {
            faults.add(fault);
        }

        List<Fault> faults() {
            return Collections.unmodifiableList(faults);
        }

        void closeLater(Closeable reader) {
            open.add(reader);
        }

        /// Makes a copy and returns how to read it. An error can come from the input
        /// or from the copy.
        IOSupplier<InputStream> copy(IOConsumer<OutputStream> content) {
            try {
                var temporary = Files.createTempFile("difyexec-", ".copy"); // with permissions for this user only
                var file = FileChannel.open(temporary, StandardOpenOption.READ, StandardOpenOption.WRITE);
                closeLater(file); // before anything can fail
                Files.delete(temporary); // the open file stays, but has no name
                content.accept(new FilterOutputStream(Channels.newOutputStream(file)) {
                    private long checked = 0;

                    @Override
                    public void write(byte[] bytes, int from, int length) throws IOException {
                        out.write(bytes, from, length);
                        if (file.position() - checked < CHECK_EVERY) return;
                        checked = file.position();
                        if (free.get() < MIN_FREE) throw new IOException("the copy would leave less than 1 GiB free");
                    }
                });
                return () -> new BoundedSeekableByteChannelInputStream(0, file.size(), file); // from its start
            } catch (IOException problem) {
                throw new Unusable("cannot make a copy of " + name() + " (" + Text.reason(problem) + ")",
                        "check the input, or choose another folder for the copy with "
                                + "JDK_JAVA_OPTIONS=-Djava.io.tmpdir=DIR");
            }
        }

        @Override
        public void close() {
            for (var file : open) try {
                file.close();
            } catch (IOException _) {
                // the system removes the copy when this process ends
            }
        }
    }

    /// Reads an Excel workbook. A cell becomes the text that a person sees if that is the same on
    /// every machine, and ISO 8601 or a plain number otherwise. fastexcel's reader of cells ends at
    /// a date in words, and takes the reading aid of a text for a part of it.
    static final class Book {
        static final int MAX_ROWS = 1 << 20, MAX_COLUMNS = 1 << 14; // Excel's limits
        /// Matches how a workbook writes a character that XML does not allow, such as `_x0001_`.
        static final Pattern ESCAPE = Pattern.compile("_x([0-9A-Fa-f]{4})_");
        /// Matches a number whose exponent Java can read.
        private static final Pattern NUMBER = Pattern.compile("[+-]?(\\d+\\.?\\d*|\\.\\d+)([eE][+-]?\\d{1,9})?");
        private static final BigDecimal AFTER_LAST_DAY = BigDecimal.valueOf(2_958_466); // 9999-12-31 is the last
        private static final XMLInputFactory XML = XMLInputFactory.newFactory();
        /// Matches the parts of a number format that do not concern digits or dates, and the
        /// formats of negative numbers and zero.
        private static final Pattern DECORATION = Pattern.compile(
                "general|standard|\"[^\"]*\"|\\\\.|_.|\\*.|\\[(?![hms]+\\])[^]]*]|;.*", Pattern.CASE_INSENSITIVE);
        /// Matches a format that shows a day, a weekday (`aaa`), a year (`y`, `e` in an era, `bb`
        /// in Thailand), an era (`gg`), or only a month.
        private static final Pattern DAY = Pattern.compile(".*([yd]|aaa|e(?![+-])|bb|gg).*|m+");

        static { // a DTD in a hostile workbook could read files of this machine, or fill the memory
            XML.setProperty(XMLInputFactory.SUPPORT_DTD, false);
        }

        private final TextFile file;
        private final ReadableWorkbook workbook;
        private final byte[] zip;
        private final List<String> texts = new ArrayList<>(); // which cells share
        private final Map<String, Format> formats = new HashMap<>(); // by style, because a workbook has few of them

        /// Describes a number format. `digits` is the least number of digits if the format pads
        /// numbers with zeros, such as 5 if it shows 701 as 00701, and 0 otherwise.
        private record Format(boolean hasDay, boolean hasTime, int digits) {
            static Format of(String format) {
                var places = DECORATION.matcher(format).replaceAll("").toLowerCase(Locale.ROOT);
                return new Format(DAY.matcher(places).matches(), places.matches(".*[hs].*"),
                        places.matches("0+") ? places.length() : 0);
            }

            /// Returns `d` for an East Asian date format, `h` for a time format, or
            /// an empty text. A file contains only the numbers of these formats, not
            /// the formats (ECMA-376, part 1, 18.8.30).
            static String eastAsian(String number) {
                if (number.matches("3[2-5]|5[56]")) return "h";
                return number.matches("2[7-9]|3[016]|5[0-478]") ? "d" : "";
            }
        }

        private Book(TextFile file, ReadableWorkbook workbook, byte[] zip) {
            this.file = file;
            this.workbook = workbook;
            this.zip = zip;
            var shared = new Rows(file, part("Type", type -> type.endsWith("/sharedStrings")), _ -> {});
            while (shared.next()) texts.add(shared.content());
        }

        /// Copies a worksheet as CSV. Without `--sheet`, this is the first visible one with data.
        static TextFile copy(TextFile file, Csv.Shape shape) throws IOException {
            var wanted = shape.sheet();
            byte[] zip;
            try (var in = file.source().get()) {
                zip = in.readAllBytes();
            }
            try (var workbook = open(zip)) {
                var book = new Book(file, workbook, zip);
                var names = workbook.getSheets().map(Sheet::getName).toList();
                Predicate<Sheet> isWanted = one -> one.getName().equalsIgnoreCase(wanted);
                if (wanted.isEmpty()) isWanted = one -> book.width(one, 1) > 0; // one row with text is enough
                var first = workbook.getSheets().filter(isWanted).findFirst().orElseThrow(() -> new Unusable(
                        file.name() + ": no worksheet " + (wanted.isEmpty() ? "with data" : Text.quoted(wanted)),
                        "the worksheets are " + Text.printable(String.join(", ", names), 300)
                                + "; choose one with --sheet"));
                var sheet = wanted.isEmpty() && shape.headerRow() == null ? book.skipCover(first) : first;
                var notes = new ArrayList<String>();
                if (names.size() > 1 && wanted.isEmpty())
                    notes.add("reading the worksheet " + Text.quoted(sheet.getName())
                            + "; choose another of the " + names.size() + " with --sheet");
                return book.rows(sheet, file.original()::add).copyAsCsv(notes);
            } catch (Unusable problem) {
                throw problem;
            } catch (IOException | RuntimeException _) {
                // no cause, because their texts are about zip files, XML and Java
                throw new Unusable(file.name() + ": cannot be read as an Excel workbook (damaged, or another format)",
                        "save it as .xlsx, or export it as CSV");
            }
        }

        /// Opens a workbook with the formats of its cells. A cell that cannot be parsed becomes an
        /// error value (the second `true`).
        private static ReadableWorkbook open(byte[] zip) throws IOException {
            try {
                return new ReadableWorkbook(new ByteArrayInputStream(zip), new ReadingOptions(true, true));
            } catch (ExcelReaderException _) { // the workbook has no styles, and therefore no formats
                return new ReadableWorkbook(new ByteArrayInputStream(zip), new ReadingOptions(false, true));
            }
        }

        /// Returns the worksheet with the table. If the first one is a cover page, whose first row
        /// has one cell, notes the fault and returns the next one that is wider.
        private Sheet skipCover(Sheet first) {
            if (width(first, 1) > 1) return first;
            var wider = workbook.getSheets().filter(one -> width(one, 20) > width(first, 20)).toList();
            if (wider.isEmpty()) return first;
            var options = wider.stream().map(one -> new Repair("--sheet", one.getName())).toList();
            var repair = options.size() == 1 ? options.getFirst() : new Repair("--sheet", "NAME", "NAME");
            var cover = file.ofSheet(first.getName());
            cover.add(cover.fault(1, "looks like a cover page, not like column names", "use "
                    + Text.joinFirst(10, options.stream().map(Repair::option))), repair);
            return wider.getFirst();
        }

        /// Returns how many cells with text the widest of the first `most` rows that
        /// have text has; of a hidden worksheet 0.
        private long width(Sheet sheet, int most) {
            long width = 0;
            var rows = rows(sheet, _ -> {}); // faults are reported when all rows are read
            if (sheet.getVisibility() != SheetVisibility.VISIBLE) return width;
            for (int left = most; left > 0 && rows.next(); left -= Math.clamp(rows.filled(), 0, 1))
                width = Math.max(width, rows.filled());
            return width;
        }

        private Rows rows(Sheet sheet, Consumer<Fault> onFault) {
            return new Rows(file.ofSheet(sheet.getName()), part("Id", sheet.getId()::equals), onFault);
        }

        /// Returns the part of the workbook that its relations name, or an empty one
        /// if it is missing.
        private XMLEventReader part(String attribute, Predicate<String> isWanted) {
            for (var xml = part("/xl/_rels/workbook.xml.rels"); xml.hasNext(); )
                if (xml.next() instanceof StartElement start && isWanted.test(attribute(start, attribute)))
                    return part(URI.create("/xl/").resolve(attribute(start, "Target")).getPath());
            return part("");
        }

        /// Returns this part of the workbook, or an empty one. The JDK's zip stream cannot read
        /// parts whose sizes follow the data, as in the workbooks that difyexec exports.
        private XMLEventReader part(String path) {
            try {
                var parts = new ZipArchiveInputStream(new ByteArrayInputStream(zip));
                for (var entry = parts.getNextEntry(); entry != null; entry = parts.getNextEntry())
                    if (path.equalsIgnoreCase("/" + entry.getName())) return XML.createXMLEventReader(parts);
                return XML.createXMLEventReader(new StringReader("<none/>"));
            } catch (IOException | XMLStreamException problem) {
                throw new IllegalStateException(problem); // the workbook is damaged
            }
        }

        private static String attribute(StartElement element, String name) {
            var attribute = element.getAttributeByName(new QName(name));
            return attribute == null ? "" : attribute.getValue();
        }

        private Format format(String style) {
            var numbers = workbook.getFormats();
            var number = style.isEmpty() || Integer.parseInt(style) >= numbers.size() ? ""
                    : numbers.get(Integer.parseInt(style));
            return Format.of(number.isEmpty() ? ""
                    : workbook.getNumFmtIdToFormat().getOrDefault(number, Format.eastAsian(number)));
        }

        private final class Rows {
            private final TextFile file; // for messages about this worksheet
            private final XMLEventReader xml;
            private final Consumer<Fault> onFault;
            private final List<CellRangeAddress> merged = new ArrayList<>();
            private final List<String> cells = new ArrayList<>(); // of the current row, as they are in the copy
            private final StringBuilder content = new StringBuilder(); // of the current cell or shared text
            private StartElement row, cell;
            private boolean isText, isAid, isFormula; // isAid in the reading aid of a Japanese text
            private long number = 0; // of the current row, from 1
            private int hidden = 0, width = 0, column = 0; // hidden rows below the column names; the current column

            Rows(TextFile file, XMLEventReader xml, Consumer<Fault> onFault) {
                this.file = file;
                this.xml = xml;
                this.onFault = onFault;
            }

            /// Copies all rows as CSV, without empty cells at the end of a row.
            TextFile copyAsCsv(List<String> notes) throws IOException {
                var copy = file.copyAsCsv(out -> {
                    while (next()) {
                        while (!cells.isEmpty() && isBlank(cells.getLast())) cells.removeLast();
                        if (cells.isEmpty()) continue;
                        if (width > 0 && attribute(row, "hidden").matches("1|true")) hidden++;
                        width = Math.max(width, cells.size());
                        TextFile.write(out, number, cells);
                    }
                });
                if (hidden > 0) notes.add("including " + Text.count(hidden, "hidden row"));
                return copy.with(new TextFile.Extras(width, merged, notes));
            }

            long filled() {
                return cells.stream().filter(cell -> !isBlank(cell)).count();
            }

            /// Returns whether a cell of the copy is blank. An empty text is quoted there.
            private static boolean isBlank(String cell) {
                return cell.replace('"', ' ').isBlank();
            }

            String content() {
                return content.toString();
            }

            /// Moves to the end of the next row or shared text. Returns false without one.
            boolean next() {
                for (cells.clear(); xml.hasNext(); ) switch (xml.next()) {
                    case StartElement start -> start(start, start.getName().getLocalPart());
                    case Characters text when isText && !isAid -> content.append(text.getData());
                    case EndElement end -> {
                        var name = end.getName().getLocalPart();
                        isText = false;
                        isAid &= !name.equals("rPh");
                        if (name.equals("c")) endCell();
                        if (name.equals("row") || name.equals("si")) return true;
                    }
                    default -> {}
                }
                return false;
            }

            /// Reads the start of an element. If the file repeats the number of a
            /// row, the next one is used.
            private void start(StartElement start, String name) {
                isText = name.equals("v") || name.equals("t");
                isAid |= name.equals("rPh");
                isFormula |= name.equals("f");
                if (name.equals("c") || name.equals("si")) {
                    cell = start;
                    isFormula = false;
                    content.setLength(0);
                }
                if (name.equals("row")) {
                    row = start;
                    number = Math.max(number + 1, Long.parseLong("0" + attribute(start, "r")));
                }
                if (name.equals("mergeCell")) merged.add(CellRangeAddress.valueOf(attribute(start, "ref")));
            }

            /// Adds the current cell after the cells that the file leaves out. A formula that was
            /// never computed has no result.
            private void endCell() {
                var place = attribute(cell, "r");
                column = place.isEmpty() ? cells.size() : new CellAddress(place).getColumn();
                if (number > MAX_ROWS || column >= MAX_COLUMNS || place.matches("[A-Za-z]{4}.*"))
                    throw file.unusable(number, "beyond Excel's limits of " + Text.number(MAX_ROWS) + " rows and "
                            + Text.number(MAX_COLUMNS) + " columns");
                while (cells.size() <= column) cells.add("");
                boolean isUnknown = isFormula && content().isBlank() && attribute(cell, "t").matches("n?");
                if (isUnknown) addFault("a formula without a result (save the workbook in a spreadsheet program)");
                else if (!content.isEmpty()) cells.set(column, text(content(),
                        formats.computeIfAbsent(attribute(cell, "s"), Book.this::format)));
            }

            /// Returns the text of the current cell for the copy, where only texts are quoted.
            private String text(String text, Format format) {
                return switch (attribute(cell, "t")) {
                    case "", "n" -> number(text.strip(), format);
                    case "d" -> date(text.strip(), format);
                    case "inlineStr", "str" -> quoted(text);
                    case "b" -> text.matches("[01]|true|false")
                            ? quoted(Boolean.toString(text.matches("1|true"))) : addError(text);
                    case "s" -> text.matches("\\d{1,9}") && Integer.parseInt(text) < texts.size()
                            ? quoted(texts.get(Integer.parseInt(text)))
                            : addFault("the workbook is damaged: this cell's text is missing; type it again");
                    default -> addError(text);
                };
            }

            private String quoted(String text) {
                return TextFile.quoted(ESCAPE.matcher(text).replaceAll(escape -> Matcher
                        .quoteReplacement(String.valueOf((char) Integer.parseInt(escape.group(1), 16)))));
            }

            private String addError(String value) {
                return addFault("error value " + Text.printable(value, 60) + "; correct or clear it");
            }

            private String addFault(String problem) {
                onFault.accept(file.faultIn(number, column, problem));
                return "";
            }

            /// Returns a date that the workbook has in words, without the time if
            /// its format does not show it.
            private String date(String words, Format format) {
                if (!words.matches("[\\d:.TZ-]+")) return addError(words);
                var date = words.replaceFirst("(\\.0+)?Z?$", "");
                return format.hasTime() ? date : date.replaceFirst("T00:00(:00)?$", "");
            }

            private String number(String text, Format format) {
                if (!NUMBER.matcher(text).matches()) return text.isEmpty() ? "" : addError(text);
                var number = new BigDecimal(text);
                // 1 is a day, so a time format with more is a duration such as 30 h,
                // which stays a number
                boolean isMoment = format.hasDay() || format.hasTime() && number.compareTo(BigDecimal.ONE) < 0;
                boolean isDay = number.signum() >= 0 && number.compareTo(AFTER_LAST_DAY) < 0;
                return isMoment && isDay ? moment(number, format) : plain(number, format.digits());
            }
        }

        /// Returns a date, a time or both. The number counts days, and its fraction
        /// is the time of day.
        private String moment(BigDecimal number, Format format) {
            // old Excel for the Mac counts days from 1904; otherwise, Excel counts a 29 February
            // 1900, which did not exist, so the days before it have another start
            var start = workbook.isDate1904() ? LocalDate.parse("1904-01-01")
                    : LocalDate.of(1899, 12, number.intValue() < 61 ? 31 : 30);
            var time = start.atStartOfDay().plus(number.movePointRight(3).multiply(BigDecimal.valueOf(86_400))
                    .setScale(0, RoundingMode.HALF_UP).longValue(), ChronoUnit.MILLIS);
            if (!format.hasDay()) return DateTimeFormatter.ISO_LOCAL_TIME.format(time);
            if (!format.hasTime()) return time.toLocalDate().toString();
            return DateTimeFormatter.ISO_LOCAL_DATE_TIME.format(time);
        }

        /// Writes a number without exponent. Fractions have the 15 digits that Excel shows, because
        /// the rest is rounding (0.1 + 0.2).
        private static String plain(BigDecimal number, int digits) {
            var shown = number.stripTrailingZeros();
            if (Math.abs((long) shown.scale()) > 1000) return shown.toString();
            if (shown.scale() > 0) shown = shown.round(new MathContext(15)).stripTrailingZeros();
            var text = shown.toPlainString();
            if (shown.scale() > 0 || shown.signum() < 0) return text;
            return "0".repeat(Math.max(0, digits - text.length())) + text;
        }
    }

    // ── Rules ────────────────────────────────────────────────────────────────

    /// Decides what a response means for its row. Only for a failed upload, [Sender] has already
    /// decided whether the row is at fault.
    record Judge(Backoff backoff, RetryRuns failedRuns, Access access, List<Requirement> requirements) {
        /// Matches errors of failed runs that may not recur when the row is sent again. Dify passes
        /// on the errors of models and nodes, so the list cannot be complete. Dify's own text is
        /// `Reached maximum retries` of an HTTP node (1.9 and 1.14,
        /// `run_streaming_failed_429.json`).
        private static final Pattern TRANSIENT = Pattern.compile("rate.?limit|overload|unavailable|"
                + "connect(ion)? ?error|connection (refused|reset|aborted|timed)|time[d -]*out|reached maximum retries|"
                + "too many requests|\\b(429|502|503|504|529)\\b|try again", Pattern.CASE_INSENSITIVE);
        /// Dify 1.16 reports these two errors for runs that waited for a person
        /// (`human.json` and `chatflow_paused_blocking.json`). It also reports the
        /// second one for a run that somebody stopped (`stop_race.json`), so only a
        /// run that has paused shows which of the two happened.
        private static final String CLOSED = "Aborted: Client response stream closed",
                TASK = "Aborted: App task was stopped";
        private static final String AFTER_FORM =
                "Dify 1.16.0 can report this after a form was submitted; open the run in Dify to see how far it got";
        /// Matches errors in a stream that reject the row's inputs; such events have no code
        /// (`inputs_streaming.json`, `inputs_more_streaming.json` and
        /// `chatflow_streaming_refused.json` of 1.9 to 1.16; the last text in `odd_graphs.json`).
        /// Here, `Reached maximum retries` is about the URL of a file.
        private static final Pattern BAD_ROW = Pattern.compile("in input form|input form must|"
                + "transfer_method is required|query is required|is not a valid FileTransferMethod|"
                + "No matching enum found|Invalid (upload file|file url|input type)|Detected file type|"
                + "File validation failed|Reached maximum retries|expected value type|does not match schema|"
                + "exceeds the maximum limit|this statement should be unreachable");
        /// Matches other refusals of a row of an app without a workflow (`chat_*_refused.json`,
        /// `agent_modes.json`, `chat_blocking_noprovider.json`).
        private static final Pattern REJECTED = Pattern.compile("^(\\d+ validation errors? for|Arg user must|"
                + "Agent Chat App does not support|Provider .* does not exist)");
        /// Matches errors that mean the code `provider_not_initialize`, for streams
        /// that report them without a code. No recording contains these texts,
        /// because the recorded servers have a model.
        private static final Pattern NO_MODEL = Pattern.compile(
                "credentials is not initialized|No valid model provider credentials");
        /// Matches any code of a 400, except that of the model's own errors, whose
        /// messages may contain any text.
        private static final String OTHER_CODE = "400 (?!completion_request_error:)[^:]*: ";
        /// Lists refusals that stop the batch, because every other row would be
        /// refused, too. A pattern matches the beginning of `status code: message`, and
        /// the first match counts. The texts get Dify's message (`%1$s`), the URL, the
        /// status, advice about the URL and the target of a redirection. A message
        /// about a malformed request quotes the request, so it is not repeated.
        ///
        /// The recordings contain drafts in `publish_again.json`, keys in `keys.json` and
        /// `keys_changed.json`, malformed requests in `bodies.json` and unknown nodes in
        /// `odd_graphs.json`, but no quotas, which only Dify's Cloud has.
        private static final List<Refusal> STOPS = List.of(
                stop("3\\d\\d ", "%2$s redirects to %5$s",
                        "set DIFY_API_BASE_URL to the final address; it usually ends in /v1"),
                stop("400 not_(workflow|chat)_app:", "the API key belongs to another kind of app",
                        "use the key of the app that was checked"),
                stop("400 (provider_not_initialize|model_currently_not_support):",
                        "the workflow's model is not set up (%1$s)", "check the model provider in Dify"),
                stop("400 provider_quota_exceeded:", "the model provider's credit is used up (%1$s)",
                        "top it up, then run the same command again"),
                setting("400 bad_request: (Invalid workflow_id|Cannot use draft)|(404|410) [^:]*: Workflow not found",
                        "--workflow-id (DIFY_WORKFLOW_ID) is not a published version of this app (%1$s)",
                        "without it, the version published now runs"),
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
                // `queue listening stopped` is left to [#refused], because its run
                // may have a result
                stop(OTHER_CODE + "(Arg user must|Input payload validation|"
                                + "(?!queue listening stopped).*validation error)",
                        "Dify rejected the request as malformed (400)", "check for a newer version of difyexec"),
                stop("401 ", "Dify rejected the API key (401: %1$s)",
                        "%6$s"),
                stop("403 workflow_version_execution_not_allowed:",
                        "the workspace's plan does not allow --workflow-id (DIFY_WORKFLOW_ID) (403: %1$s)",
                        "without it, the version published now runs; or change the plan"),
                // Dify's API sends a code with 403 and 404; a firewall, another
                // server or a wrong path gives none
                stop("403 [^:]+:", "Dify denied access (403: %1$s)",
                        "switch it on in Dify at Access Point (or API Access), or ask the workspace's owner"),
                stop("404 (?!:)[^:]*:", "Dify responded with 404 (%1$s)", "%4$s"),
                stop("(404|405|410|415|426) ", "%2$s is not Dify's API (HTTP %3$s: %1$s)", "%4$s"),
                stop("407 ", "the proxy requires a user and a password (407)",
                        "put them into HTTPS_PROXY, http://user:password@host:port"),
                stop("429 rate_limit_error:", "the plan's quota of runs is used up (%1$s)",
                        "run the same command again on the next day or in the next period"));

        private record Refusal(Pattern answer, Exit exit, String what, String hint) {}

        private static Refusal stop(String answer, String what, String hint) {
            return new Refusal(Pattern.compile(answer, Pattern.DOTALL), Exit.STOPPED, what, hint);
        }

        /// Creates a refusal that a wrong setting causes. If no run has started yet,
        /// the exit code is 2.
        private static Refusal setting(String answer, String what, String hint) {
            return new Refusal(Pattern.compile(answer, Pattern.DOTALL), Exit.UNUSABLE, what, hint);
        }

        Judge requiring(List<Requirement> outputs) {
            return new Judge(backoff, failedRuns, access, outputs);
        }

        Verdict verdict(Attempt attempt, Response response) {
            return switch (response) {
                case Response.Ran ran when isUnconfirmed(ran) -> unconfirmed(words(ran));
                case Response.Ran ran -> ran(attempt, ran);
                // an error after the run's first event does not show that the run itself failed
                case Response.Refused refused when refused.inStream() && refused.run().isPresent() ->
                        unconfirmed(message(refused));
                case Response.Refused refused -> refused(attempt, refused);
                case Response.Cut(_, var symptom, var why) -> new Verdict.Unresolved(symptom, why);
                // the run is paid for, and another one would be as large; a later
                // session may have more memory
                case Response.Unreadable(_, var why) -> new Outcome(RowStatus.UNKNOWN, why);
                // shut out (true), because look-ups and stops cannot reach the server either
                case Response.NotSent(var why, var hint) when !hint.isEmpty() ->
                        new Verdict.StopBatch(Stop.early("cannot connect to " + access + ": " + why, hint), true);
                // the row is not at fault, and its wait is the shortest, because [Health] spaces
                // the requests while the server is down
                case Response.NotSent(var why, _) ->
                        new Verdict.Again("unreached", attempt.tries(), backoff.delay(0), why);
                case Response.NotUploaded(var why, var mayPass, var retryAfter) -> mayPass
                        ? again(attempt, why, retryAfter) : Outcome.failed(why);
            };
        }

        /// Judges a run that was looked up. A stored run's `stopped` is final,
        /// unlike a response's. If the worker was shut down during the run (Dify
        /// 1.16), the row is not at fault and is sent again.
        Verdict afterLook(Attempt attempt, Response.Ran ran) {
            if (ran.status() != Response.RunStatus.STOPPED) return ran(attempt, ran);
            return ran.error().contains("worker is shutting down") && failedRuns != RetryRuns.NEVER
                    ? again(attempt, ran.error(), Optional.empty()) : Outcome.failed(words(ran));
        }

        /// Returns whether a failure must be looked up before it counts. Dify may have made it up,
        /// or the row would be sent again, which costs again. Any other failure ends its row.
        private boolean isUnconfirmed(Response.Ran ran) {
            return ran.status() == Response.RunStatus.FAILED
                    && (ran.isBare() || mayPass(ran.error()) || isWorthAnother(ran.error()));
        }

        private static Verdict unconfirmed(String words) {
            return new Verdict.Unresolved(Symptom.UNCONFIRMED, "reported as failed: " + words);
        }

        /// Judges a failure that the stored run confirms. An error in a stream may
        /// concern the whole batch.
        Verdict confirmed(Attempt attempt, Response initial, Response.Ran stored) {
            if (initial instanceof Response.Ran end && !end.isBare()) return afterLook(attempt, end);
            if (!(initial instanceof Response.Refused error)) return afterLook(attempt, stored);
            var verdict = refused(attempt, error);
            return verdict instanceof Verdict.Unresolved ? afterLook(attempt, stored) : verdict;
        }

        /// Judges a failure that Dify has no record of. An error that a stream made up counts like
        /// a rejection, and counts only if its text is known. If Dify 1.16 gave it the id of a real
        /// run, that run may still be active.
        Verdict notStored(Attempt attempt, Response reported) {
            if (reported instanceof Response.Refused error) return refused(attempt, error);
            // no other response reports a failure, so this one has been judged already
            if (!(reported instanceof Response.Ran ran)) return verdict(attempt, reported);
            if (attempt.mode() != Mode.STREAMING || !ran.isBare()) return ran(attempt, ran);
            // judges the error as if it had come in the form that Dify 1.14 uses:
            // status 500 and no code
            int status = 500;
            var verdict = refused(attempt, Response.Refused.event(status, "", words(ran), Optional.empty()));
            // no run has this id and the fault may pass, so the row is sent again without another
            // look-up; with `never`, the attempt is looked up as after an unknown text
            boolean isRetried = failedRuns != RetryRuns.NEVER && mayPass(ran.error()) && ran.ref().isMadeUp();
            return verdict instanceof Verdict.Unresolved && isRetried ? ran(attempt, ran) : verdict;
        }

        /// Judges a run by its status. A response's `stopped` may be a time-out of Dify's listener,
        /// whose run can still succeed (1.9 and 1.14, `limits.json`), so it is looked up.
        private Verdict ran(Attempt attempt, Response.Ran ran) {
            return switch (ran.status()) {
                // a success fails its row if its outputs lack what `--require` asks for
                case SUCCEEDED, PARTIAL -> requirements.stream().map(one -> one.fault(ran.outputs()))
                        .flatMap(Optional::stream).findFirst().map(Outcome::failed)
                        .orElseGet(() -> new Outcome(RowStatus.valueOf(ran.status().name()), ""));
                case PAUSED -> Outcome.PAUSED;
                // without a run, no record could show that it succeeded after all
                case STOPPED -> ran.ref().isNamed()
                        ? new Verdict.Unresolved(Symptom.CUT, "the run was stopped: " + ran.error())
                        : Outcome.failed(words(ran));
                case RUNNING -> new Verdict.Unresolved(Symptom.CUT, "Dify responded before the run had finished");
                case FAILED -> isWorthAnother(ran.error()) ? again(attempt, ran.error(), Optional.empty())
                        : Outcome.failed(words(ran));
            };
        }

        private static String words(Response.Ran ran) {
            var error = ran.error();
            if (error.isEmpty() && ran.status() == Response.RunStatus.STOPPED) return "stopped on the server";
            if (error.isEmpty()) return "the run failed and gave no reason";
            // the engine reports the first text, its listener reports the second one
            // (1.9 to 1.16, limits.json)
            if (error.startsWith("Aborted: Maximum execution time")
                    || error.startsWith("Aborted: App execution exceeded"))
                return error + " (the server's own limit, which --timeout cannot raise)";
            if (error.startsWith(CLOSED)) return error + " (" + AFTER_FORM + ")";
            if (error.startsWith(TASK)) return error + " (someone stopped it in Dify, or " + AFTER_FORM + ")";
            return error;
        }

        /// Returns whether a run ended because its form was submitted. A retry would
        /// ask the person again, and cost again.
        static boolean isAfterForm(String error, boolean wasPaused) {
            return error.startsWith(CLOSED) || wasPaused && error.startsWith(TASK);
        }

        private boolean isWorthAnother(String error) {
            return failedRuns == RetryRuns.ALWAYS || failedRuns == RetryRuns.TRANSIENT && mayPass(error);
        }

        /// Returns whether another attempt may succeed. `Aborted:` is about a stop or one of Dify's
        /// own limits, so it does not pass.
        private static boolean mayPass(String error) {
            return !error.startsWith("Aborted:") && TRANSIENT.matcher(error).find();
        }

        /// Judges a refusal by its status, code and message. Dify responds with 400
        /// to bad rows, to settings that are wrong for all rows, and after faults of
        /// its own. The order of the checks matters.
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
                return new Verdict.Unresolved(Symptom.CUT, message(response));
            if (status == 429) return throttled(attempt, response);
            // below 300: a success whose content is not Dify's
            if (response.isTransient() || status < 300)
                return new Verdict.Unresolved(response.dify() ? Symptom.CUT : Symptom.GATEWAY, response.why());
            var words = Text.around(": ", message(response), "");
            if (status == 400 && !words.isEmpty()) return Outcome.failed(response.message());
            return Outcome.failed(switch (status) {
                // Dify's own 403 has a code, so it has stopped the batch above
                case 403 -> "HTTP 403 from a firewall" + words;
                case 413 -> "too large for the server (413)" + words;
                default -> "HTTP " + status + words;
            });
        }

        /// Returns whether Dify refused the row of an app without a workflow. With the same status
        /// and codes, it reports a model's failure, whose text may be anything.
        static boolean isRejected(Response.Refused refused) {
            boolean mayBeRow = List.of("invalid_param", "completion_request_error").contains(refused.code());
            return !mayBeRow || refused.isTooMany() || BAD_ROW.matcher(refused.message()).find()
                    || REJECTED.matcher(refused.message()).find();
        }

        /// Returns why the refusal stops the batch, if it does. A colon in the code
        /// would look like its end.
        private Optional<Stop> stop(Response.Refused response) {
            var answer = response.status() + " " + response.code().replace(':', ' ') + ": " + response.message();
            Object[] facts = {message(response), access, response.status(), access.advice(), response.message(),
                access.keyAdvice()};
            return STOPS.stream().filter(known -> known.answer().matcher(answer).lookingAt()).findFirst()
                    .map(known -> new Stop(known.exit(), known.what().formatted(facts), known.hint().formatted(facts)));
        }

        /// Judges an error event without a code by its message, because Dify 1.14
        /// reports even a bad input with status
        /// 500. An unknown one may be a fault of the worker during the run, so the
        ///      run is looked up.
        private Verdict refusedInWords(Attempt attempt, Response.Refused response) {
            var words = response.message();
            if (NO_MODEL.matcher(words).find())
                return refused(attempt, Response.Refused.event(400, "provider_not_initialize", words, response.run()));
            if (words.startsWith("No class mapping found"))
                return refused(attempt, Response.Refused.event(400, "invalid_param", words, response.run()));
            if (BAD_ROW.matcher(words).find()) return Outcome.failed(words);
            return new Verdict.Unresolved(Symptom.CUT, words);
        }

        /// Returns the message as one line of a terminal. Dify can quote a whole request in it.
        private static String message(Response.Refused response) {
            return Text.printable(response.message(), 200).strip();
        }

        /// Returns a wait that grows with the row's earlier refusals.
        private Verdict throttled(Attempt attempt, Response.Refused response) {
            return new Verdict.Throttled(backoff.delay(attempt.tries().throttled(), response.retryAfter()),
                    message(response));
        }

        Verdict again(Attempt attempt, String why, Optional<Duration> retryAfter) {
            int failed = attempt.tries().failed();
            var tries = attempt.tries().plus(1, 0);
            return failed < backoff.maxRetries()
                    ? new Verdict.Again("again", tries, backoff.delay(failed, retryAfter), why) : Outcome.failed(why);
        }

        /// Holds the values of `--retry-failed-runs`: which failed runs are run
        /// again, and so paid for again.
        enum RetryRuns {
            NEVER, TRANSIENT, ALWAYS;

            @Override
            public String toString() {
                return name().toLowerCase(Locale.ROOT);
            }
        }
    }

    /// Holds what `--require` asks of the outputs of a success: a value at the
    /// pointer, and its type if there is one.
    record Requirement(String pointer, String type) {
        private static final Map<String, Predicate<JsonNode>> TYPES = Map.of("", _ -> true,
                "number", JsonNode::isNumber, "integer", JsonNode::canConvertToExactIntegral,
                "boolean", JsonNode::isBoolean, "list", JsonNode::isArray, "object", JsonNode::isObject,
                "json", value -> value.isTextual() && !Json.parse(value.textValue()).isMissingNode());

        /// Reads all values of `--require`. An empty text only drops earlier ones.
        static List<Requirement> all(List<String> texts) {
            return texts.stream().filter(text -> !text.isEmpty()).map(Requirement::parse).toList();
        }

        static Requirement parse(String text) {
            var words = (text + ":").split(":", 2); // a pointer without a type has an empty one
            var type = words[1].replaceFirst(":$", "");
            if (text.startsWith("/") && TYPES.containsKey(type)) return new Requirement(words[0], type);
            throw new Unusable("--require " + Text.shell(text) + ": must be like /answer or /score:number",
                    "the types are number, integer, boolean, list, object and json");
        }

        /// Returns what is wrong with the outputs, or empty if they are as required. A blank text,
        /// null, an empty list and an empty object count as missing.
        Optional<String> fault(JsonNode outputs) {
            var value = outputs.at(pointer);
            if (value.isEmpty() && value.asText("").isBlank()) // only lists and objects have a size
                return Optional.of("output " + pointer + " is missing or empty");
            if (TYPES.get(type).test(value)) return Optional.empty();
            return Optional.of("output " + pointer + " is not of type " + type);
        }
    }

    /// Decides what a look-up's result means, and whether a row with an unresolved
    /// attempt may be sent again. A row that an earlier session left unknown is sent
    /// again with `--resend-unknown`, or if its id is named. The rules are pure:
    /// they read a look-up and change nothing.
    ///
    /// ```
    ///  in flight ── the run's end ──────────────────────────────────────────────────────────────▶ outcome
    ///      │ cut, timed out, 5xx, unconfirmed failure, or difyexec ended                             ▲
    ///      ▼                                                                                         │
    ///  ┌ ASKED ─┐  absent   ┌ ABSENT ┐                                                               │
    ///  │        ├──────────▶│        ├── no run for `--settle` ──▶ not started ──▶ sent again        │
    ///  │        │           └─┬────┬─┘                              │  ▲                             │
    ///  │        │  running,   │    │                       recheck │  │ absent                      │
    ///  │        │  unanswered ▼    │                               ▼  │                             │
    ///  │        ├─────▶┌ ACTIVE ┐◀─┼─── a run has appeared ─── RESEND, LATE ── a run has succeeded ──┤
    ///  └┬─────┬─┘      └─┬───┬──┘  │                                                                 │
    ///   │     │ stopped, │   │     │                                                                 │
    ///   │     ▼ or ""    │   │     │                                                                 │
    ///   │   ENDED ◀──────┘   │     └── time is over, or `absent` proves nothing ──▶ unknown ─────────┤
    ///   │     │ again        │                                                       ▲               │
    ///   │     │              └── time is over ──┬── its task is unknown ─────────────┤               │
    ///   │     │                                 └──▶ OVERDUE ── 30 s later ──────────┘               │
    ///   └─────┴───── the run has ended (from each stage) ────────────────────────────────────────────┘
    /// ```
    ///
    /// Each wait has a bound. A failed or active look-up is repeated until its time is
    /// over: `TIMEOUT` after the run's start, of a recheck after its first question.
    /// While the server answers nothing at all, no time passes, but at most five minutes
    /// of that count. An absent run is waited for until `--settle` after the first
    /// look-up that was answered, or after the start of a later stream. A stream that no
    /// later stream has passed waits while the session has other rows, and until
    /// `TIMEOUT`. Meanwhile, silent streams are looked up as long as they are open.
    record LookUpRules(Judge judge, Limits limits, boolean resendUnknown, boolean rerunChanged) {
        private static final String SAFER = "; --mode blocking is safer";
        /// Dify deletes old runs, on its Cloud after 30 days. That a run is absent
        /// then shows nothing.
        private static final Duration MAX_AGE = Duration.ofDays(7);
        /// In these stages, a run is not asked to stop again.
        private static final Set<LookUp.Stage> STOPPING = EnumSet.of(LookUp.Stage.OVERDUE, LookUp.Stage.ENDED);
        /// With one of these, a stream's job was queued by then or never will be, see [Transport].
        private static final Pattern ANSWERED = Pattern.compile("50[024]");

        /// @param passed    when a stream that was sent later has started; empty if none has
        /// @param hasOthers whether the session has rows that are not looked up
        /// @param status    the row's status by now
        /// @param outages   the session's time without any response
        record LookUpContext(Release.Listing listing, Optional<Instant> passed, boolean hasOthers,
                RowStatus status, Duration outages) {}

        /// Returns what to do, in this order. Returns nothing if the engine need not do anything.
        List<Verdict> verdicts(LookUp lookUp, LookUpResult found, LookUpContext here, Instant now) {
            // Dify commits between reading an answer and its tokens, so a message can be torn
            if (found instanceof LookUpResult.Ended(var ran, _, _) && ran.isEmptyAnswer()
                    && lookUp.stage() != LookUp.Stage.ENDED)
                return List.of(new Verdict.LookAgain(lookUp, LookUp.Stage.ENDED));
            return switch (lookUp.purpose) {
                case OUTCOME -> outcome(lookUp, found, here, now);
                case QUIET -> List.of(); // the stream is still open, so nothing is unresolved
                case RESEND -> recheck(lookUp, found, here, now);
                case LATE -> late(lookUp, found, here);
            };
        }

        /// Returns what is known of the attempt's end, for the log. If Dify confirms a failure or
        /// has no run, the attempt's response counts: it has the price of its steps, which the
        /// stored run lacks, or an id that may have been made up.
        static Response known(LookUp lookUp, LookUpResult found) {
            boolean isAbsent = found instanceof LookUpResult.Absent || found instanceof LookUpResult.Unlisted;
            boolean hasFailed = found instanceof LookUpResult.Ended(var ran, _, _) && !ran.status().isSuccess();
            boolean isFailure = lookUp.is(Symptom.UNCONFIRMED) && (hasFailed || isAbsent && !lookUp.hasRun());
            if (isFailure && lookUp.reported instanceof Response.Ran end && !end.isBare()) return end;
            if (found instanceof LookUpResult.Ended(var ran, _, _)) return ran;
            if (isFailure && lookUp.reported instanceof Response.Refused error)
                return Response.Refused.event(error.status(), error.code(), error.message(), Optional.empty());
            return new Response.Cut(lookUp.run().filter(run -> !isFailure && !(isAbsent && run.isMadeUp())),
                    lookUp.reason.symptom(), lookUp.reason.why());
        }

        /// Handles an attempt before its row is sent again. If a run has appeared,
        /// its outcome is waited for as after a lost response. A failed run does not
        /// keep the row from being sent again.
        private List<Verdict> recheck(LookUp lookUp, LookUpResult found, LookUpContext here, Instant now) {
            var attempt = lookUp.attempt;
            boolean hasFailed = found instanceof LookUpResult.Ended(var ran, _, _) && !ran.status().isSuccess();
            return hasFailed || found instanceof LookUpResult.Absent && !lookUp.hasRun()
                    ? List.of(new Verdict.SendAgain(attempt.tries(), Optional.of(attempt)))
                    : outcome(lookUp, found, here, now);
        }

        /// Handles an attempt for which a run was looked for once more before the session ends. A
        /// success is kept if the row has none, because it was paid for. Any other result changes
        /// nothing. Neither does a success that fails a requirement, if the row waits for another
        /// run whose result may be better.
        private List<Verdict> late(LookUp lookUp, LookUpResult found, LookUpContext here) {
            if (!(found instanceof LookUpResult.Ended(var ran, _, _)) || !ran.status().isSuccess()) return List.of();
            var verdict = taken(judge.afterLook(lookUp.attempt, ran));
            boolean isBetter = verdict instanceof Verdict.Take(Outcome(var status, _), _) && status.isSuccess()
                    && !here.status().isSuccess() || here.status() == RowStatus.FAILED;
            return isBetter && lookUp.attempt.isCurrent() ? List.of(verdict) : List.of();
        }

        /// Gives a row the outcome of its run. Only a report of Dify itself counts.
        private List<Verdict> outcome(LookUp lookUp, LookUpResult found, LookUpContext here, Instant now) {
            // a message of Dify 1.9 has no tokens, which would show that it was stopped
            boolean isStop = lookUp.is(Symptom.INTERRUPTED) && here.listing() == Release.Listing.NO_QUEUE;
            return switch (found) {
                case LookUpResult.Ended(var ran, _, _) when isStop && ran.status().isSuccess() && ran.isStop() ->
                        unknown(lookUp, "Dify does not show whether its answer is complete");
                case LookUpResult.Ended(var ran, var inputs, _) when ran.status().isSuccess() ->
                        succeeded(lookUp, ran, inputs);
                case LookUpResult.Ended(var ran, _, _) -> failed(lookUp, ran);
                // only a person can continue a paused run
                case LookUpResult.Running(_, var status, _, _) when status == Response.RunStatus.PAUSED ->
                        giveUp(lookUp, Outcome.PAUSED);
                case LookUpResult.Running(var run, _, _, _) -> waited(lookUp, LookUp.Stage.ACTIVE, "run " + run.id()
                        + " is still running " + Text.seconds(Duration.between(lookUp.start(), now))
                        + " after its start", now);
                case LookUpResult.Unanswered(var isOver) -> unanswered(lookUp, isOver, here.listing(), now);
                case LookUpResult.Absent() when lookUp.is(Symptom.UNCONFIRMED) && !lookUp.hasRun() ->
                        List.of(judge.notStored(lookUp.attempt, lookUp.reported));
                case LookUpResult.Absent() -> absent(lookUp, here, now);
                case LookUpResult.Unlisted() when lookUp.is(Symptom.UNCONFIRMED) ->
                        List.of(judge.notStored(lookUp.attempt, lookUp.reported));
                case LookUpResult.Unlisted() -> unknown(lookUp, "Dify cannot look up completions");
                case LookUpResult.Inconclusive(Response.Unreadable(_, var why), _) ->
                        giveUp(lookUp, new Outcome(RowStatus.UNKNOWN, why));
                case LookUpResult.Inconclusive(var response, _) -> silent(lookUp, response, here, now);
            };
        }

        /// Keeps a result that was paid for. If its row has changed since, it gets
        /// the inputs that Dify recorded.
        private List<Verdict> succeeded(LookUp lookUp, Response.Ran ran, Map<String, String> inputs) {
            var attempt = lookUp.attempt;
            var verdict = judge.afterLook(attempt, ran);
            if (attempt.isCurrent() || !(verdict instanceof Outcome outcome)) return List.of(taken(verdict));
            if (inputs.isEmpty()) return unknown(lookUp, ran.ref().name()
                    + " succeeded, but the row has changed since, and Dify does not show the inputs that were sent");
            var take = new Verdict.Take(outcome, inputs);
            boolean isRerun = rerunChanged && !attempt.isEdited();
            return isRerun ? List.of(take, new Verdict.SendAgain(Attempt.Tries.NONE, Optional.empty())) : List.of(take);
        }

        /// Decides about a stored run that did not succeed.
        private List<Verdict> failed(LookUp lookUp, Response.Ran ran) {
            var attempt = lookUp.attempt;
            boolean isOverTime = lookUp.is(Symptom.TIMED_OUT);
            if (ran.status() == Response.RunStatus.STOPPED && lookUp.stage() != LookUp.Stage.ENDED)
                return List.of(new Verdict.LookAgain(lookUp, LookUp.Stage.ENDED));
            // the cells that would be sent again are not those that the user edited
            if (attempt.isOfLostEdits())
                return List.of(taken(Outcome.failed(ran.error())));
            // an earlier session stopped the run itself, so that is not the row's failure
            if (lookUp.is(Symptom.INTERRUPTED)) return List.of(
                    new Verdict.Close("interrupted", "stopped on request"),
                    new Verdict.SendAgain(Attempt.Tries.NONE, Optional.empty()));
            if (lookUp.is(Symptom.UNCONFIRMED))
                return List.of(judge.confirmed(attempt, lookUp.reported, ran));
            return List.of(taken(isOverTime ? Outcome.failed("timed out: " + lookUp.reason.why())
                    : judge.afterLook(attempt, ran)));
        }

        private static Verdict taken(Verdict verdict) {
            return verdict instanceof Outcome outcome ? new Verdict.Take(outcome, Map.of()) : verdict;
        }

        /// Waits for a chatflow's answer that is still empty. It may follow a moment after the
        /// run's end (1.16), or never if the client of a stream has disconnected (1.9).
        private List<Verdict> unanswered(LookUp lookUp, boolean hasEnded, Release.Listing listing, Instant now) {
            var why = hasEnded ? "the run ended without an answer (it was stopped, or the answer is empty)"
                    : "the message is still empty; the run may still be active";
            boolean isLeft = listing == Release.Listing.WITHOUT_END && lookUp.attempt.mode() == Mode.STREAMING;
            return isLeft ? unknown(lookUp, why + SAFER) : waited(lookUp, LookUp.Stage.ACTIVE, why, now);
        }

        /// Decides what it means that no run was found. A run that was seen, or whose id is known,
        /// is never considered not started, unless Dify made up the id.
        private List<Verdict> absent(LookUp lookUp, LookUpContext here, Instant now) {
            var known = lookUp.run().filter(run -> !run.isMadeUp());
            var gone = known.map(run -> "Dify no longer has " + run.name()).orElse("Dify does not show its run");
            if (known.isPresent() || lookUp.hasRun()) return waited(lookUp, lookUp.stage(), gone, now);
            if (lookUp.is(Symptom.LOST_RESULT)) return unknown(lookUp, gone); // the run may have had a result
            if (lookUp.attempt.at().plus(MAX_AGE).isBefore(now)) return unknown(lookUp,
                    "no run was found, but Dify may have deleted it, because the request is over a week old");
            return switch (here.listing()) {
                case FROM_START, WITHOUT_END, NO_QUEUE -> settled(lookUp, here, now);
                case AT_END, NOT_KNOWN -> unlisted(lookUp, here.listing(), now);
            };
        }

        /// Handles a server that may list a run only after its end. Up to 1.10 (`AT_END`), it never
        /// lists a stream whose client has disconnected, so waiting is useless.
        private List<Verdict> unlisted(LookUp lookUp, Release.Listing listing, Instant now) {
            boolean isStream = lookUp.attempt.mode() == Mode.STREAMING;
            var why = isStream ? "this Dify may never list a run whose stream was dropped" + SAFER
                    : "no run was found within the time limit, but this Dify lists runs only after they end";
            return isStream && listing == Release.Listing.AT_END ? unknown(lookUp, why)
                    : waited(lookUp, lookUp.stage(), why, now);
        }

        /// Considers an attempt not started if no run has appeared for `--settle`. A blocking run
        /// starts in the API's process, which accepts requests in their order. So the first look-up
        /// that was answered shows that it has accepted the row's request, even if that had to wait
        /// in front of a full server.
        ///
        /// From Dify 1.13 on, a stream waits in a queue for a worker, even after its client has
        /// disconnected, and the server does not show it meanwhile. Time alone therefore does not
        /// show that it never started. Only a stream that was sent later and has started shows that
        /// the queue has moved past this one, and a busy worker may still have reserved its job. A
        /// session without other rows waits for that only if it takes less than `TIMEOUT`.
        private List<Verdict> settled(LookUp lookUp, LookUpContext here, Instant now) {
            int http = lookUp.reported.httpStatus();
            boolean mayBeQueued = here.listing() == Release.Listing.FROM_START
                    && lookUp.attempt.mode() == Mode.STREAMING
                    && lookUp.run().isEmpty() // Dify makes up an id only after the run has left the queue
                    && http != 503; // at once, so the request did not get to Dify
            boolean mayBeReserved = mayBeQueued && !ANSWERED.matcher("" + http).matches();
            var settle = limits.settle(mayBeReserved ? Mode.STREAMING : Mode.BLOCKING);
            var time = (mayBeQueued ? here.passed() : lookUp.answeredAt()).map(from -> from.plus(settle));
            if (time.filter(end -> !now.isBefore(end)).isPresent()) return notStarted(lookUp);
            boolean isSoon = time.isPresent() && settle.compareTo(limits.timeout()) <= 0;
            if (!mayBeQueued || isSoon || here.hasOthers() || !lookUp.isOver(now))
                return List.of(new Verdict.LookAgain(lookUp, LookUp.Stage.ABSENT));
            if (time.isEmpty()) return unknown(lookUp,
                    "it may still wait in Dify's queue: no stream that was sent later has started");
            var unknown = unknown(lookUp, "a busy worker of Dify may still hold it");
            if (!(unknown.getFirst() instanceof Outcome outcome)) return unknown;
            return List.of(outcome, new Verdict.SettlesAt(time.get()));
        }

        /// Closes an attempt that started no run. One of this session counts as a failure, so that
        /// a server that loses requests does not make the row run forever.
        private List<Verdict> notStarted(LookUp lookUp) {
            var attempt = lookUp.attempt;
            if (attempt.isOfLostEdits()) return unknown(lookUp, "the edited row was never run, and its edits "
                    + "are lost; make them again in the shell, then 'retry ID'");
            var close = new Verdict.Close("not_started", lookUp.reason.why());
            var tries = isOurs(lookUp) ? attempt.tries().plus(1, 0) : attempt.tries();
            var again = judge.again(attempt, lookUp.reason.why() + "; no run was started", Optional.empty());
            return List.of(close, isOurs(lookUp) && again instanceof Outcome ? again
                    : new Verdict.SendAgain(tries, Optional.empty()));
        }

        /// Handles a look-up that failed. The response may concern the whole batch,
        /// which then stops.
        private List<Verdict> silent(LookUp lookUp, Response response, LookUpContext here, Instant now) {
            return judge.verdict(lookUp.attempt, response) instanceof Verdict.StopBatch stop ? List.of(stop)
                    : waited(lookUp, lookUp.stage(), "looking up the run failed: " + response.why(),
                            now.minus(here.outages()));
        }

        /// Looks again until the run's time is over. Then a run that timed out is stopped if its
        /// task is known, and gets a moment to end. Streams report the task, and look-ups do not.
        private List<Verdict> waited(LookUp lookUp, LookUp.Stage next, String why, Instant now) {
            if (!lookUp.isOver(now)) return List.of(new Verdict.LookAgain(lookUp, next));
            boolean canStop = lookUp.is(Symptom.TIMED_OUT) && !STOPPING.contains(lookUp.stage())
                    && lookUp.run().filter(ref -> !ref.task().isEmpty()).isPresent();
            return canStop ? List.of(new Verdict.LookAgain(lookUp, LookUp.Stage.OVERDUE)) : unknown(lookUp, why);
        }

        private List<Verdict> unknown(LookUp lookUp, String why) {
            return giveUp(lookUp, new Outcome(RowStatus.UNKNOWN, lookUp.reason.why() + "; " + why));
        }

        /// Gives the row this outcome. A row that an earlier session left is sent again instead if
        /// `--resend-unknown` asks for it.
        private List<Verdict> giveUp(LookUp lookUp, Outcome outcome) {
            if (isOurs(lookUp) || !resendUnknown) return List.of(outcome);
            return List.of(new Verdict.Close("resent", outcome.text()),
                    new Verdict.SendAgain(Attempt.Tries.NONE, Optional.of(lookUp.attempt)));
        }

        /// Returns whether this session sent the attempt and has not considered it not started.
        private static boolean isOurs(LookUp lookUp) {
            return lookUp.purpose == Purpose.OUTCOME && lookUp.reason.symptom().isOurs();
        }
    }

    /// Computes the wait before another attempt. It begins with `initial` and
    /// doubles each time, up to `max`. Up to half of it is taken off at random, so
    /// that rows are not all sent again at the same moment.
    ///
    /// @param dice supplies numbers from 0 to 1
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

        /// Holds a server's `Retry-After`. If it is too long, the command ends, so
        /// that it does not seem to hang.
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

    /// Limits the concurrent runs to `-c` at most, and to fewer when the server refuses a run as
    /// too many. The number of slots then falls to what the server was running, and grows back by
    /// one after each round of as many successes as there are slots. A slot that the server does
    /// not have is tried again after twice as many rounds, because a row is refused at each trial.
    /// Only the engine's thread uses it.
    static final class Pace {
        /// Limits the doubling, so that a server that has grown meanwhile is still tried.
        private static final int MAX_ROUNDS = 10;
        /// A run counts as dead after it was silent for this many times the duration of the slowest
        /// run so far, but not before `LEAST_PATIENCE`.
        private static final int PATIENCE_FACTOR = 4;
        private static final Duration LEAST_PATIENCE = Duration.ofSeconds(10);

        final int ceiling;
        private int slots, lowest, highest = 0;
        private int successes = 0; // since the last change of the slots
        private int rounds = 1; // so many rounds of successes add a slot
        private boolean isTrial = false; // true until the last slot that was added has lasted a round
        private long cutAt = 0; // the last attempt that had been sent when the limit was lowered
        private Duration slowest = Duration.ZERO;

        Pace(int ceiling) {
            this.ceiling = ceiling;
            this.slots = ceiling;
            this.lowest = ceiling;
        }

        Duration patience() {
            return Collections.max(List.of(LEAST_PATIENCE, slowest.multipliedBy(PATIENCE_FACTOR)));
        }

        /// Counts the slots that runs without a known outcome occupy, at most half of
        /// all slots. After a server's restart they may be active forever by its
        /// records, and other rows must continue.
        ///
        /// @param cut   when each run whose outcome is unknown was cut off
        /// @param quiet how many open streams have been silent for [#patience]
        int held(Collection<Instant> cut, int quiet, Instant now) {
            if (slots > 1) return Math.min(cut.size() + quiet, slots / 2);
            return cut.stream().anyMatch(since -> now.isBefore(since.plus(patience()))) ? 1 : 0;
        }

        /// Notes how long a run kept the server busy. An outage is not part of this time.
        void noteRunTime(Duration took) {
            slowest = Collections.max(List.of(slowest, took));
        }

        /// Lowers the limit after the server refused a run as too many. Refusals of one moment
        /// count as one cut: a run that was sent before it only takes away its own slot.
        ///
        /// @param running how many runs the server may have
        /// @param last    the number of the attempt that was sent last
        void cutAfterRefusal(long sequence, int running, long last) {
            successes = 0;
            if (sequence <= cutAt) {
                lower(slots - 1);
                return;
            }
            cutAt = last;
            // if this takes back a slot that was on trial, the next trial waits twice as long
            rounds = isTrial ? Math.min(2 * rounds, MAX_ROUNDS) : 1;
            isTrial = false;
            lower(running);
            highest = Math.max(highest, slots);
        }

        private void lower(int runs) {
            // with no slot, no row would ever show that the server has room again
            slots = Math.clamp(runs, 1, slots);
            lowest = Math.min(lowest, slots);
        }

        void noteSuccess() {
            successes++;
            // the slot on trial has lasted a round, so the next trial need not wait longer
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

        /// Formats the lowest limit and the highest since the first cut: `2–4 (-c 8)`.
        String span() {
            return lowest + (highest > lowest ? "–" + highest : "") + " (-c " + ceiling + ")";
        }

        record Rate(Duration interval) {}
    }

    /// Holds until when nothing is sent, and why. Look-ups wait only if that concerns the whole
    /// server. Only the engine's thread uses it.
    static final class Gate {
        private final Optional<Duration> wait, interval;
        private final Map<Reason, Instant> closed = new EnumMap<>(Reason.class);

        /// `WAIT` and `RATE` are the user's options. `FULL`: the server has refused a
        /// run, and runs that were cut off may hold its slots. `UNCOUNTED`: the
        /// batch may have spent more than its files show. `RETRY_AFTER`: the server
        /// asked for a pause. `DOWN`: the server does not respond.
        enum Reason { WAIT, RATE, FULL, UNCOUNTED, RETRY_AFTER, DOWN }

        /// @param wait the value of `--wait`, or null
        /// @param rate the value of `--rate`, or null
        Gate(Duration wait, Pace.Rate rate) {
            this.wait = Optional.ofNullable(wait);
            this.interval = Optional.ofNullable(rate).map(Pace.Rate::interval);
        }

        void close(Reason reason, Instant until) {
            closed.put(reason, until);
        }

        void extend(Reason reason, Instant until) {
            if (until.isAfter(until(reason))) close(reason, until);
        }

        Instant until(Reason reason) {
            return closed.getOrDefault(reason, Instant.MIN);
        }

        Instant rowsFrom() {
            return closed.values().stream().max(Comparator.naturalOrder()).orElse(Instant.MIN);
        }

        Instant lookUpsFrom() {
            return Collections.max(List.of(until(Reason.RETRY_AFTER), until(Reason.DOWN)));
        }

        /// Plans the next start. Starts that were missed are not caught up, because
        /// they would come all at once.
        void noteStart(Instant now) {
            wait.ifPresent(_ -> close(Reason.WAIT, Instant.MAX)); // no row starts until this one ends
            interval.ifPresent(step -> {
                var soonest = now.plus(step.multipliedBy(9).dividedBy(10)); // up to a tenth is made up for
                var planned = closed.getOrDefault(Reason.RATE, now).plus(step);
                close(Reason.RATE, planned.isBefore(soonest) ? soonest : planned);
            });
        }

        void noteEnd(Instant now) {
            wait.ifPresent(pause -> close(Reason.WAIT, now.plus(pause)));
        }

        /// Returns why nothing is sent, for the progress line.
        ///
        /// @param probe when a server that is down is asked next
        Optional<String> note(Instant now, Instant probe) {
            if (now.isBefore(until(Reason.RETRY_AFTER))) return Optional.of("waiting "
                    + Text.seconds(Duration.between(now, until(Reason.RETRY_AFTER))) + " (Retry-After)");
            boolean isLater = now.isBefore(probe) && probe.isBefore(Instant.MAX);
            if (now.isBefore(until(Reason.DOWN))) return Optional.of("no response, trying again "
                    + (isLater ? "in " + Text.seconds(Duration.between(now, probe)) : "now"));
            if (now.isBefore(until(Reason.UNCOUNTED))) return Optional.of("looking up the runs of earlier sessions");
            return Optional.empty();
        }
    }

    /// Records whether the server responds. After five failures in a row it counts as down. Until
    /// it responds, only one probe at a time is sent. Only the engine's thread uses it.
    static final class Health {
        private static final int STREAK = 5;
        /// The session stops early if the server does not respond for this time,
        /// which is far longer than a restart.
        private static final Duration MAX_SILENCE = Duration.ofMinutes(5);
        /// The session stops early if every run is rejected as too many for this time, although
        /// none of ours is active. Those of other clients end meanwhile, but not slots that a crash
        /// has lost, or a limit that rejects all streams.
        private static final Duration MAX_REFUSAL = Duration.ofMinutes(1);
        private static final Duration MAX_PAUSE = Duration.ofSeconds(3); // a server that is back is noticed soon
        /// Delays the probe after a failure that may have started a run, whose
        /// look-up may make it unnecessary.
        private static final Duration FIRST_PROBE_DELAY = Duration.ofSeconds(1);

        private final Backoff backoff;
        private final Gate gate;
        /// Count failures in a row, runs whose end was not seen, and refusals while
        /// none of our runs is active.
        private int streak = 0, doubts = 0, refusals = 0;
        private boolean refusedTooLong = false;
        private Instant nextProbe = Instant.MAX, downAt = Instant.MAX;
        private Instant silentSince = Instant.MAX, refusedSince = Instant.MAX, failedAt = Instant.MIN;
        private Instant doubtedAt = Instant.MIN;
        private Duration outages = Duration.ZERO; // of the outages that are over

        Health(Backoff backoff, Gate gate) {
            this.backoff = backoff;
            this.gate = gate;
        }

        private boolean isDown() {
            return streak >= STREAK;
        }

        Instant nextProbe() {
            return Collections.max(List.of(nextProbe, gate.until(Gate.Reason.RETRY_AFTER)));
        }

        /// Returns how many runs ended unseen, until the server responds to a later request. They
        /// keep their slots, so that an outage leaves no more of them.
        int doubts() {
            return doubts;
        }

        void noteUnseenEnd(Instant now, Instant sent) {
            doubts++;
            doubtedAt = now;
            noteFailure(now, sent);
        }

        /// Counts a failure. If the server already counts as down, a run that was
        /// sent earlier shows nothing new.
        void noteFailure(Instant now, Instant sent) {
            if (isDown() && sent.isBefore(downAt)) return;
            failedAt = now;
            if (streak++ == 0) silentSince = now;
            if (streak == STREAK) downAt = now;
            // until a response to a probe ends the wait
            if (isDown()) gate.close(Gate.Reason.DOWN, Instant.MAX);
            if (isDown()) nextProbe = now.plus(Collections.min(List.of(backoff.delay(streak - STREAK), MAX_PAUSE)));
            else if (doubts > 0) nextProbe = now.plus(FIRST_PROBE_DELAY);
        }

        /// @param sent when the request was sent. If that was before a failure, the response does
        ///     not show what became of the run
        void noteResponse(Instant sent) {
            outages = outages();
            streak = 0;
            gate.close(Gate.Reason.DOWN, Instant.MIN);
            silentSince = Instant.MAX;
            if (!sent.isBefore(doubtedAt)) doubts = 0;
            nextProbe = doubts == 0 ? Instant.MAX : doubtedAt.plus(FIRST_PROBE_DELAY);
        }

        /// Returns for how long the server has answered nothing at all in this
        /// session, but at most [#MAX_SILENCE]. Otherwise, a server that comes and
        /// goes could prolong look-ups without limit.
        Duration outages() {
            if (!isDown()) return outages;
            return Collections.min(List.of(outages.plus(Duration.between(downAt, failedAt)), MAX_SILENCE));
        }

        void noteSuccess(Instant sent) {
            noteResponse(sent);
            refusals = 0;
        }

        /// Notes a refusal as too many, which is normal while other runs of ours are active.
        void noteRefusal(Instant now, int busy) {
            refusals = busy > 0 ? 0 : refusals + 1;
            if (refusals <= 1) refusedSince = now;
            // several refusals as well, because after long waits two could be a minute apart
            refusedTooLong |= refusals >= STREAK && refusedSince.plus(MAX_REFUSAL).isBefore(now);
        }

        /// @param busy the number of requests without a response so far, each of
        ///             which may still get one
        Optional<Stop> verdict(Instant now, int busy) {
            boolean isPaused = failedAt.isBefore(gate.until(Gate.Reason.RETRY_AFTER));
            var asked = isPaused ? failedAt : now; // nothing is sent in a pause
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
    /// @param settle how long an interrupted run is looked for before it counts as
    ///               not started, see [#settle(Mode)]
    record Limits(Ceiling maxFailures, Long maxTokens, BigDecimal maxCost, Duration grace, Duration timeout,
            Duration settle) {
        static final int FIRST_ROWS = 20; // if fewer rows fail, that may still be chance
        private static final Duration BLOCKING_SETTLE = Duration.ofSeconds(30);
        /// A worker may have reserved a stream's job behind a run that it is busy with.
        /// Dify ends that run after 1,200 s at the latest
        /// (`WORKFLOW_MAX_EXECUTION_TIME`), and then the job starts.
        private static final Duration STREAM_SETTLE = Duration.ofMinutes(20);
        private static final String CONTINUE = "to continue, raise the limit";

        Duration settle(Mode mode) {
            if (settle != null) return settle;
            return mode == Mode.STREAMING ? STREAM_SETTLE : BLOCKING_SETTLE;
        }

        boolean isOnSpending() {
            return maxTokens != null || maxCost != null;
        }

        Optional<Stop> tooManyFailed(long failed, long done) {
            return maxFailures == null || !maxFailures.isReached(failed, done) ? Optional.empty()
                    : Optional.of(Stop.early("--max-failures reached: " + Text.count(failed, "row") + " failed",
                            "see why with status, then run or retry"));
        }

        /// Stops the batch if its first rows all failed for one reason, as the
        /// others probably would.
        Optional<Stop> sameCause(Map<String, Long> causes, long done) {
            // the user's own `--max-failures` replaces this limit
            if (maxFailures != null || causes.size() != 1) return Optional.empty();
            var cause = causes.entrySet().iterator().next();
            return done < FIRST_ROWS || cause.getValue() < done ? Optional.empty()
                    : Optional.of(Stop.early("the first " + done + " rows all failed: " + cause.getKey(),
                            "to continue anyway, pass --max-failures off"));
        }

        /// @param spent what all sessions of the batch have spent, so that a
        ///              repeated command does not begin from 0
        /// @param own what this session has spent, because earlier sessions had no
        ///            prices if they did not stream
        Optional<Stop> limitReached(Usage.Spending spent, Usage.Spending own) {
            if (maxTokens != null && spent.tokens() >= maxTokens)
                return Optional.of(Stop.early("--max-tokens reached: " + Text.count(spent.tokens(), "token") + " used",
                        CONTINUE));
            if (maxCost == null) return Optional.empty();
            // otherwise the limit would never stop anything
            if (own.lacksPrices()) return Optional.of(Stop.early(
                    "--max-cost does not work here: Dify reports no prices for this app's runs", "use --max-tokens"));
            var cost = spent.estimated();
            // a server's texts, of any length
            var currencies = Text.printable(String.join(" and ", cost.keySet()), 40);
            if (cost.size() > 1) return Optional.of(Stop.early(
                    "--max-cost counts one currency, but Dify reports prices in " + currencies, "use --max-tokens"));
            var total = cost.values().stream().findFirst().orElse(BigDecimal.ZERO);
            if (total.compareTo(maxCost) < 0) return Optional.empty();
            var estimated = spent.unpriced() == 0 ? "" : ", estimated for " + Text.count(spent.unpriced(), "run")
                    + " without a price";
            return Optional.of(Stop.early("--max-cost reached: " + Text.money(total, currencies) + " spent" + estimated,
                    CONTINUE));
        }

        /// Returns how `--max-cost` counts the runs of earlier sessions that have no price, because
        /// they did not stream or were looked up.
        Optional<String> unpricedNote(Usage.Spending spent) {
            if (maxCost == null || spent.unpriced() == 0) return Optional.empty();
            var runs = "Note: " + Text.count(spent.unpriced(), "run of this batch has", "runs of this batch have")
                    + " no price; --max-cost counts each with the mean price of the others";
            return Optional.of(!spent.prices().isEmpty() ? runs + "."
                    : runs + ", and not at all until one has a price. --max-tokens counts them now.");
        }

        Optional<Stop> costUnavailable(Mode mode, AppKind app) {
            return maxCost == null || mode != Mode.BLOCKING || app != AppKind.WORKFLOW ? Optional.empty()
                    : Optional.of(Stop.early("--max-cost does not work here: this server rejects streams, and only "
                            + "streams report prices", "use --max-tokens"));
        }

        /// Holds a number of failed rows (`20`), or their share (`5%`) of the rows that have ended.
        record Ceiling(long count, double share) {
            /// Returns whether the limit is reached. `100%` is reached if all rows
            /// failed, although no share is larger.
            boolean isReached(long failed, long ended) {
                return count > 0 ? failed >= count : ended >= FIRST_ROWS && (failed > share * ended || failed == ended);
            }
        }
    }

    /// Chooses the mode of the next attempt. Only the engine's thread uses it.
    static final class ModePolicy {
        /// A connection that breaks after this time was probably cut by a proxy, often after 60 s.
        /// A stream survives that limit, because it has pings.
        private static final Duration PROXY_TIMEOUT = Duration.ofSeconds(25);
        /// Each rejected stream holds one of Dify's connections for 300 s, and there
        /// are ten by default.
        private static final int MAX_REJECTED_STREAMS = 3;

        final AppKind app;
        private final boolean holdsRefused;
        final Release.Listing listing;
        private Mode mode;
        private int refusedStreams = 0;
        private boolean mayStream; // true if streaming may be chosen automatically

        /// @param earlier the last mode of the batch, which may have been chosen
        ///                because of its server
        ModePolicy(Mode asked, Optional<Mode> earlier, AppKind app, String version) {
            this.mayStream = asked == Mode.AUTO && app.auto == Mode.AUTO;
            this.app = app;
            this.listing = Release.of(version).listing(app);
            this.holdsRefused = Release.of(version).holdsRefused();
            // a chatflow streams, because a blocking response lacks the id of its run; up to Dify
            // 1.10 it does not stream: only that id finds a stream whose client has disconnected,
            // but a blocking run is found by its user
            boolean streams = app == AppKind.CHATFLOW && listing != Release.Listing.WITHOUT_END;
            if (asked == Mode.BLOCKING && app.hasConversations() && app.auto == Mode.STREAMING)
                throw new Unusable("--mode blocking: agents only stream", "leave out --mode");
            if (asked != Mode.AUTO) this.mode = asked;
            else if (app.auto != Mode.AUTO) this.mode = app.auto;
            else this.mode = streams ? Mode.STREAMING : earlier.orElse(Mode.BLOCKING);
        }

        Mode mode() {
            return mode;
        }

        Optional<String> note() {
            if (app == AppKind.COMPLETION) return Optional.of("Note: Dify cannot look up completions. If a "
                    + "response is lost, its row is unknown, although it may have been paid for.");
            if (app != AppKind.CHAT || mode != Mode.STREAMING) return Optional.empty();
            return Optional.of("Note: if a stream of a chat app breaks off, Dify drops the answer, although it "
                    + "is paid for. A blocking row keeps it.");
        }

        /// Returns how an earlier server of this version lists runs, as far as the
        /// current one still does so.
        Release.Listing listing(String version) {
            return Release.of(version).listing(app) == listing ? listing : Release.Listing.NOT_KNOWN;
        }

        /// Changes the mode if the response shows that another mode is safer.
        /// Returns a message about it.
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

        /// Returns whether a proxy has probably cut off a request. A stream may last longer,
        /// because its pings pass it.
        private static boolean isProxyCut(Response response, Duration took) {
            return switch (response) {
                case Response.Refused refused -> refused.status() == 504 || refused.status() == 524;
                case Response.Cut cut -> took.compareTo(PROXY_TIMEOUT) > 0 && cut.symptom() != Symptom.TIMED_OUT;
                case Response.Ran _, Response.Unreadable _, Response.NotSent _, Response.NotUploaded _ -> false;
            };
        }
    }

    /// Holds facts about a version of Dify that its responses do not show; no other place has them.
    /// A version newer than those that were tested counts as the newest, and of an unknown one the
    /// most cautious facts are assumed.
    ///
    /// @param from         the first version with these facts
    /// @param holdsRefused true if the server keeps the connection open for 300 s
    ///                     when it rejects a row in its stream
    record Release(String from, Listing listing, boolean holdsRefused) {
        /// Matches the numbers of a version. The text that may follow, such as
        /// `-rc1`, does not matter.
        private static final Pattern SHAPE = Pattern.compile("\\d{1,4}\\.\\d{1,4}(\\.\\d{1,4})?");
        static final String NEWEST = Demo.VERSION;
        /// Begins with 1.11. Runs came to be listed from their start in about 1.11,
        /// and 1.11 to 1.13 were not tested.
        private static final Release UNKNOWN = new Release("1.11", Listing.NOT_KNOWN, true);
        private static final List<Release> NEWEST_FIRST = List.of(
                new Release("1.16", Listing.FROM_START, false),
                new Release("1.14", Listing.FROM_START, true),
                UNKNOWN,
                new Release("0", Listing.AT_END, false));

        /// Defines when a server lists a run, in its log or among the conversations.
        /// `WITHOUT_END`: never the end of a stream whose client has disconnected.
        /// `NO_QUEUE`: from the start, which no worker delays.
        enum Listing { FROM_START, WITHOUT_END, NO_QUEUE, AT_END, NOT_KNOWN }

        static Release of(String version) {
            return parsed(version).flatMap(known -> NEWEST_FIRST.stream().filter(release ->
                    known.compareTo(ModuleDescriptor.Version.parse(release.from)) >= 0).findFirst()).orElse(UNKNOWN);
        }

        private static Optional<ModuleDescriptor.Version> parsed(String version) {
            var match = SHAPE.matcher(version);
            return match.lookingAt() ? Optional.of(ModuleDescriptor.Version.parse(match.group())) : Optional.empty();
        }

        static Optional<String> note(String version) {
            return parsed(version).filter(known -> known.compareTo(ModuleDescriptor.Version.parse(NEWEST)) > 0)
                    .map(_ -> "Note: Dify " + Text.printable(version, 20) + " is newer than " + NEWEST
                            + ", the newest version that difyexec was tested with, and is treated like it.");
        }

        /// Returns when runs are listed. Every version lists the conversation of a
        /// chatflow's run from the start.
        Listing listing(AppKind app) {
            if (!app.hasRuns()) return Listing.NO_QUEUE;
            return app == AppKind.CHATFLOW && listing == Listing.AT_END ? Listing.WITHOUT_END : listing;
        }
    }

    // ── Data ─────────────────────────────────────────────────────────────────

    /// Holds one row of the input. `index` counts from 0, `line` is where the row begins in the
    /// file, and `fingerprint` the hash of `inputs`. If `isEdited`, the CSV lacks changes of the
    /// shell. `typed` names the inputs that were numbers or dates.
    record Row(int index, long line, String id, Map<String, String> inputs, long fingerprint, boolean isEdited,
            Set<String> typed) {
        Row {
            if (id.isBlank()) throw new IllegalArgumentException("a row needs an id");
            inputs = Collections.unmodifiableMap(inputs); // not Map.copyOf, which would lose the order of the columns
        }

        Row(int index, long line, String id, Map<String, String> inputs) {
            this(index, line, id, inputs, Fingerprint.of(inputs), false, Set.of());
        }

        /// Edits that change nothing leave the row as it is.
        Row with(Map<String, String> edits) {
            var changed = new LinkedHashMap<>(inputs);
            changed.putAll(edits);
            if (changed.equals(inputs)) return this;
            var same = typed.stream().filter(name -> !edits.containsKey(name)).collect(Collectors.toSet());
            return new Row(index, line, id, changed, Fingerprint.of(changed), true, same);
        }

        /// Returns the row with the inputs of an earlier request. It keeps its fingerprint, so that
        /// the attempt still counts as sent before the change.
        Row recorded(Map<String, String> sent) {
            return new Row(index, line, id, sent, fingerprint, isEdited, typed);
        }

        String hash() {
            return HexFormat.of().toHexDigits(fingerprint);
        }
    }

    /// Holds one request for one row. Dify finds its run by its `user`. `sequence` is 0 for an
    /// attempt of an earlier session. `fingerprint` is the hash of the inputs that were sent, and
    /// `isEdited` whether the shell had edited them.
    record Attempt(long sequence, Row row, Tries tries, String user, Mode mode, String fingerprint, Instant at,
            boolean isEdited) {
        /// Creates an attempt that this session does not send, without tries, edits
        /// and a known time.
        static Attempt unsent(Row row, String user, Mode mode) {
            return new Attempt(0, row, Tries.NONE, user, mode, row.hash(), Instant.EPOCH, false);
        }

        Attempt with(Row row, Tries tries) {
            return new Attempt(sequence, row, tries, user, mode, fingerprint, at, isEdited);
        }

        /// Moves the time of an earlier session's attempt to the session's start, if
        /// the clock was set back since then.
        Attempt limitedTo(Instant now) {
            return at.isAfter(now) ? new Attempt(sequence, row, tries, user, mode, fingerprint, now, isEdited) : this;
        }

        boolean isEarlier() {
            return sequence == 0;
        }

        /// Returns how long the attempt took. Nobody saw the end of an earlier
        /// session's run, so Dify's own time counts.
        Duration took(Response response, Instant now) {
            return isEarlier() && response instanceof Response.Ran ran
                    ? Duration.ofMillis((long) (ran.usage().seconds() * 1000)) : Duration.between(at, now);
        }

        boolean isCurrent() {
            return fingerprint.equals(row.hash());
        }

        /// Returns whether the cells that were sent are lost with the shell that edited them.
        boolean isOfLostEdits() {
            return isEdited && !isCurrent();
        }

        /// Counts attempts of this session. Only `failed` counts against `MAX_RETRIES`, and
        /// `throttled` makes the waits longer. `earlier` counts the retries of earlier sessions,
        /// which only `retry_count` includes.
        record Tries(int failed, int throttled, int earlier) {
            static final Tries NONE = new Tries(0, 0, 0);

            Tries plus(int failures, int throttles) {
                return new Tries(failed + failures, throttled + throttles, earlier);
            }

            int retries() {
                return earlier + failed;
            }
        }

        /// Creates the user of each attempt, which is unique, so that a run that is
        /// found under it belongs to this attempt.
        static final class UserNames {
            /// Dify accepts users of up to 255 characters (`users.json`). Sixteen hexadecimal
            /// digits, two hyphens and the counter follow the name.
            private static final int MAX_NAME = 200;

            private final String prefix;
            private long count = 0;

            UserNames(String name) {
                prefix = "%s-%016x-".formatted(name, new SecureRandom().nextLong()); // differs for each session
            }

            /// Returns whether `--user` may be this name. Dify rejects a NUL character
            /// (`users.json`), and terminals obey other control characters.
            static boolean isUsable(String name) {
                return name.length() <= MAX_NAME && name.chars().noneMatch(Character::isISOControl);
            }

            String next() {
                count++;
                return prefix + count;
            }

            long count() {
                return count;
            }
        }
    }

    /// Identifies a run as the server does. `task` may be unknown, and a chatflow's
    /// response may have no run id.
    record RunRef(String id, String task) {
        static final RunRef NONE = new RunRef("", "");

        /// Returns whether Dify 1.16 made up the ids, which are then equal, as it does if it
        /// rejects a row in its stream.
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

    /// Holds the tokens and the price of a run. An unknown `price` is null, so that
    /// a line of the log lacks it.
    @JsonInclude(JsonInclude.Include.NON_DEFAULT)
    record Cost(long tokens, BigDecimal price, String currency) {
        /// Matches a price, which Dify sends as text. Limits its digits, because `1e999999999` has
        /// a billion of them when it is written in full.
        private static final Pattern PRICE = Pattern.compile("\\d{1,15}(\\.\\d{1,30})?([eE][-+]?\\d{1,2})?");
        static final Cost NONE = of(0);

        Cost {
            tokens = Math.clamp(tokens, 0, 1_000_000_000_000L); // a server's number; no sum may overflow
            if (price != null && price.signum() < 0) price = null;
        }

        static Cost of(long tokens) {
            return new Cost(tokens, null, "");
        }

        static Cost of(JsonNode from) {
            return new Cost(from.path("total_tokens").asLong(), price(from).orElse(null), Json.text(from, "currency"));
        }

        static Optional<BigDecimal> price(JsonNode from) {
            return Optional.ofNullable(from.get("total_price")).map(JsonNode::asText).filter(PRICE.asMatchPredicate())
                    .map(BigDecimal::new);
        }
    }

    record Usage(double seconds, int steps, Cost cost) {
        static final Usage NONE = new Usage(0, 0, Cost.NONE);

        /// Returns the run's time as the server reports it, but at most the time
        /// that the request took.
        Duration within(Duration most) {
            return Duration.ofMillis(Math.clamp((long) (seconds * 1000), 0, most.toMillis()));
        }

        /// Sums tokens, and cost by currency. `unpriced` counts the runs that took
        /// tokens and have no price.
        static final class Spending {
            /// After this many runs without a price, the mode or the models report
            /// none. A few may lack one by chance.
            private static final int RUNS_WITHOUT_PRICE = 10;

            private final Map<String, BigDecimal> prices = new TreeMap<>();
            private long tokens = 0, priced = 0, unpriced = 0;

            Map<String, BigDecimal> prices() {
                return Collections.unmodifiableMap(prices);
            }

            long tokens() {
                return tokens;
            }

            long unpriced() {
                return unpriced;
            }

            void add(Cost cost) {
                Invariant.hold(cost.tokens() >= 0 && (cost.price() == null || cost.price().signum() >= 0),
                        "what was spent fell");
                tokens += cost.tokens();
                if (cost.price() != null) {
                    prices.merge(cost.currency(), cost.price(), BigDecimal::add);
                    priced++;
                } else if (cost.tokens() > 0) unpriced++; // a run without a model costs nothing
            }

            boolean lacksPrices() {
                return prices.isEmpty() && unpriced >= RUNS_WITHOUT_PRICE;
            }

            /// Returns the cost by currency, without sums of 0, because such models have no price.
            SortedMap<String, BigDecimal> paid() {
                var paid = new TreeMap<>(prices);
                paid.values().removeIf(price -> price.signum() == 0);
                return paid;
            }

            /// Returns what was paid, with the mean price of the runs that have one for each run
            /// that has none.
            SortedMap<String, BigDecimal> estimated() {
                var all = paid();
                all.replaceAll((_, price) -> price.add(price.multiply(BigDecimal.valueOf(unpriced))
                        .divide(BigDecimal.valueOf(priced), MathContext.DECIMAL64)));
                return all;
            }
        }
    }

    sealed interface Response {
        /// A response that comes within this time is not that of a gateway that gave
        /// up waiting, see [Transport].
        Duration AT_ONCE = Duration.ofSeconds(1);
        /// Represents the response to an attempt about which nothing is known.
        Response NOTHING = new Cut(Symptom.NO_ANSWER, "");

        /// The server rejected the request. `run` is known if an error event
        /// followed the run's start.
        record Refused(int status, Author author, String code, String message, Optional<Duration> retryAfter,
                Optional<RunRef> run) implements Response {
            /// Names who wrote a refusal, and after how long, see [Transport]. `DIFY`: the response
            /// is JSON with Dify's code, message and status. `EVENT`: it is an `error` event of a
            /// stream, into which only Dify writes. `AT_ONCE`: something else wrote it within a
            /// second. `GATEWAY`: something else wrote it later, or at an unknown time.
            enum Author { DIFY, EVENT, AT_ONCE, GATEWAY }

            static Refused http(int status, Author author, String code, String message,
                    Optional<Duration> retryAfter) {
                return new Refused(status, author, code, message, retryAfter, Optional.empty());
            }

            /// Creates a refusal for a success whose content is not Dify's, with a
            /// status below 300.
            static Refused unexpected(String why) {
                return bare(200, Author.GATEWAY, why);
            }

            /// Creates a refusal of which only the status is known to be the server's.
            static Refused bare(int status, Author author, String why) {
                return http(status, author, "", why, Optional.empty());
            }

            static Refused event(int status, String code, String message, Optional<RunRef> run) {
                return new Refused(status, Author.EVENT, code, message, Optional.empty(), run);
            }

            boolean dify() {
                return author == Author.DIFY || inStream();
            }

            boolean inStream() {
                return author == Author.EVENT;
            }

            @Override
            public String why() {
                var text = Text.printable(message, 200).strip();
                if (text.isEmpty()) return "HTTP " + status;
                return "HTTP " + status + (dify() ? " " : ", ") + text;
            }

            /// Returns whether the app's limit of concurrent runs is reached. Dify responds with
            /// 400 instead of 429 (`too_many_blocking.json`), so the message decides.
            boolean isTooMany() {
                return message.startsWith("Too many requests.");
            }

            boolean isBusy() {
                return status == 429 || status == 503;
            }

            /// Returns whether the same request may succeed later. 408 and 425 mean
            /// that it was not processed.
            boolean isTransient() {
                return status >= 500 || status == 408 || status == 425 || status == 429;
            }

            @Override
            public Optional<Duration> pause() {
                return isBusy() ? retryAfter : Optional.empty();
            }
        }

        /// Holds a run that ended or paused. `files` is empty unless files were to be saved.
        /// `message` is empty unless the app is a chatflow.
        record Ran(RunRef ref, RunStatus status, ObjectNode outputs, String error, String workflowId, Usage usage,
                Optional<SavedFiles> files, ChatMessage message) implements Response {
            Ran(RunRef ref, RunStatus status, ObjectNode outputs, String error, String workflowId, Usage usage) {
                this(ref, status, outputs, error, workflowId, usage, Optional.empty(), ChatMessage.NONE);
            }

            /// Creates the run of a chatflow that has answered. Its message contains
            /// neither run id, version nor steps.
            static Ran answered(ObjectNode outputs, double seconds, ChatMessage message) {
                var usage = new Usage(seconds, 0, Cost.NONE);
                return new Ran(RunRef.NONE, RunStatus.SUCCEEDED, outputs, "", "", usage).with(message, outputs);
            }

            static Ran failed(String error) {
                return new Ran(RunRef.NONE, RunStatus.FAILED, Json.MAPPER.createObjectNode(),
                        error.replaceFirst("^" + ChatMessage.FAILED, ""), "", Usage.NONE);
            }

            /// Returns whether this is an empty answer of an app without runs.
            boolean isEmptyAnswer() {
                return !ref.isNamed() && outputs.path("answer").asText("missing").isEmpty();
            }

            /// Returns the answer as one that was stopped before its end.
            Ran stopped() {
                var why = "stopped, or ended by the server's time limit: the answer is incomplete";
                return new Ran(ref, RunStatus.STOPPED, outputs, why, workflowId, usage, files, message);
            }

            @Override
            public Optional<RunRef> run() {
                return Optional.of(ref).filter(RunRef::isNamed);
            }

            String id() {
                return ref.isNamed() ? ref.id() : message.id();
            }

            @Override
            public String why() {
                return error;
            }

            Ran with(SavedFiles files) {
                return new Ran(ref, status, outputs, error, workflowId, usage, Optional.of(files), message);
            }

            Ran with(ChatMessage message, ObjectNode outputs) {
                return new Ran(ref, status, outputs, error, workflowId, message.usage(usage), files, message);
            }

            /// Returns whether the run has an id, but no step and no output. Dify 1.16 makes up
            /// such ends when a stream breaks off (`huge_integer.json`).
            boolean isBare() {
                return ref.isNamed() && usage.steps() == 0 && outputs.isEmpty();
            }

            /// Returns whether this can be the end of a run that was asked to stop.
            /// Up to 1.14, Dify reports most stops as `failed` (`stop_race.json`). A
            /// bare end counts only with the text of a stop.
            boolean isStop() {
                // without a run and a price of the model, 0 tokens are the only sign
                boolean isUncounted = status.isSuccess() && !ref.isNamed() && usage.cost().tokens() == 0;
                return status == RunStatus.STOPPED || isUncounted
                        || status == RunStatus.FAILED && (!isBare() || error.startsWith("Aborted:"));
            }

            /// Returns whether the other response reports the same end, or is an error that
            /// confirms a failure, which a chatflow of 1.9 sends.
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

        /// A run ended, but its outputs cannot be kept: memory is too small for them, they are
        /// nested too deeply, or Dify 1.9 stored them damaged.
        record Unreadable(Optional<RunRef> run, String why) implements Response {}

        /// The request was not sent, because the connection was refused, the host is
        /// unknown, or TLS failed. If `hint` is not empty, every other request
        /// fails, too, until somebody follows the hint.
        record NotSent(String why, String hint) implements Response {}

        /// A file of the row could not be uploaded, so no run was started. `mayPass` is true if
        /// another try may succeed, because the server was unreachable or busy.
        record NotUploaded(String why, boolean mayPass, Optional<Duration> pause) implements Response {}

        String why();

        default Optional<RunRef> run() {
            return Optional.empty();
        }

        default String stoppedAnswer() {
            boolean isStop = this instanceof Ran ran && !ran.ref().isNamed() && ran.isStop();
            return isStop ? Json.text(((Ran) this).outputs(), "answer") : "";
        }

        default Optional<Duration> pause() {
            return Optional.empty();
        }

        /// Returns the HTTP status if it shows something about the attempt's run, otherwise 0. A
        /// gateway that only gave up waiting does not know what becomes of the request.
        default int httpStatus() {
            // whatever mixes up responses may also have sent an empty list of runs
            if (this instanceof Unreadable || this instanceof Cut(_, var symptom, _) && symptom == Symptom.CONTRADICTED)
                return 200;
            return this instanceof Refused(var status, var author, _, _, _, _) && status >= 500
                    && (author == Refused.Author.DIFY || author == Refused.Author.AT_ONCE) ? status : 0;
        }

        /// Returns the first of the ends that a stream reported, if it belongs to the stream's run
        /// and no other end contradicts it. If an error has a run, the stored run decides.
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

        /// Holds the parts of a chatflow's response besides its outputs.
        record ChatMessage(String conversation, String id, Cost cost) {
            static final ChatMessage NONE = new ChatMessage("", "", Cost.NONE);
            /// An HTTP 400 that begins like this is about a run that took place and
            /// failed. Other 400s reject inputs.
            static final String FAILED = "Run failed: ";

            /// Adds the message's tokens and price. If both report tokens, the
            /// larger number counts.
            Usage usage(Usage run) {
                if (cost.tokens() == 0) return run; // stored messages have tokens only since 1.16
                var priced = cost.price() == null ? run.cost() : cost;
                long most = Math.max(run.cost().tokens(), cost.tokens());
                return new Usage(run.seconds(), run.steps(), new Cost(most, priced.price(), priced.currency()));
            }
        }

        /// Holds the status of a run as Dify reports it. A row's outcome is a [RowStatus].
        enum RunStatus implements Named {
            SUCCEEDED, PARTIAL, FAILED, STOPPED, PAUSED, RUNNING;

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

        /// Holds the files that `--save-files` saved, and for each missing one the reason. `took`
        /// is the time of all downloads.
        record SavedFiles(List<Path> saved, Map<String, String> missing, Duration took) {
            static final SavedFiles NONE = new SavedFiles(List.of(), Map.of(), Duration.ZERO);
        }
    }

    /// Holds why the outcome of a run is unknown. A symptom with a text belongs to
    /// an attempt that an earlier session left.
    enum Symptom {
        /// Something in front of Dify responded instead.
        GATEWAY,
        /// The request was sent, but no response came.
        NO_ANSWER,
        /// The response or the stream broke off, or does not show whether there was
        /// a run or how it ended.
        CUT,
        /// The response has parts of two runs, or belongs to another request.
        CONTRADICTED,
        /// The response reports that the run failed. Dify 1.16 makes up such ends,
        /// so the stored run decides.
        UNCONFIRMED,
        /// A stream was silent for too long.
        STREAM_SILENT,
        /// The request took longer than `--timeout`.
        TIMED_OUT,
        CRASH("difyexec ended during the run"),
        INTERRUPTED("difyexec was interrupted and stopped the run"),
        /// The run may have had a result that is lost, because the results file is
        /// shorter than the log last recorded.
        LOST_RESULT("its result may be missing from the results file");

        final String text;

        Symptom() {
            this("");
        }

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
        /// The attempt ended in this way, and its row is sent again after a pause,
        /// with these tries.
        record Again(String end, Attempt.Tries tries, Duration after, String why) implements Verdict {}

        /// Dify rejected the run because too many are active. The row is not at
        /// fault, so it keeps its retries.
        record Throttled(Duration after, String why) implements Verdict {}

        /// The run may have started, so it is looked up before anything is sent again.
        record Unresolved(Symptom symptom, String why) implements Verdict {}

        /// The batch stops, because every other row would get the same response.
        ///
        /// @param isShutOut true if the server rejects this key from now on, even
        ///                  for looking up active runs
        record StopBatch(Stop stop, boolean isShutOut) implements Verdict {}

        // only after a look-up

        /// The result that the server has stored counts. If the row has changed since it was sent,
        /// `inputs` are those that the server recorded, otherwise they are empty.
        record Take(Outcome outcome, Map<String, String> inputs) implements Verdict {}

        /// Nothing is decided yet, so the run is looked up again, in this stage.
        record LookAgain(LookUp lookUp, LookUp.Stage next) implements Verdict {}

        /// The attempt ended in this way, which leaves its row without an outcome.
        record Close(String end, String why) implements Verdict {}

        /// The row is sent again at once, after a look-up of each attempt for which a
        /// run may still appear. If one was `checked`, it and those that were sent
        /// before it are not looked up again.
        record SendAgain(Attempt.Tries tries, Optional<Attempt> checked) implements Verdict {}

        /// The row is unknown only for now: from this time on, a session may count
        /// its attempt as not started.
        record SettlesAt(Instant time) implements Verdict {}
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

        private static final Map<String, RowStatus> BY_WORD = Stream.of(values())
                .collect(Collectors.toMap(RowStatus::word, status -> status));

        boolean isSuccess() {
            return this == SUCCEEDED || this == PARTIAL;
        }

        /// Returns whether `retry` takes the row. The run of a paused or unknown one
        /// may have a result by now.
        boolean isOnRetryList() {
            return this == FAILED || this == PAUSED || this == UNKNOWN;
        }

        /// Formats the counts that are not 0, each in the color of its status:
        /// `3 succeeded, 1 failed`.
        static String counts(ToLongFunction<RowStatus> count, BiFunction<RowStatus, String, String> painted) {
            return Stream.of(values()).sorted(Comparator.comparing(PENDING::equals)) // what is left comes last
                    .filter(status -> count.applyAsLong(status) > 0)
                    .map(status -> painted.apply(status,
                            Text.number(count.applyAsLong(status)) + " " + status.word()))
                    .collect(joining(", "));
        }

        static Optional<RowStatus> of(String word) {
            return Optional.ofNullable(BY_WORD.get(word));
        }
    }

    /// Names the purpose of a look-up, which decides what its result means.
    enum Purpose {
        /// The row needs an outcome.
        OUTCOME,
        /// The stream has been silent for a while, so its run may have ended.
        QUIET,
        /// The attempt counted as not started, and its row is about to be sent again. A run that
        /// has appeared since makes that unnecessary.
        RESEND,
        /// The attempt counted as not started, and the session is about to end. A
        /// run that has appeared since may be a success that the row lacks, or may
        /// have been paid for besides another run of the row.
        LATE
    }

    /// Asks a worker about an attempt. The worker reads it while the engine's thread
    /// continues, so it never changes.
    ///
    /// @param run        empty if the run's id is unknown, so that only the
    ///                   attempt's user leads to the run
    /// @param stopsFirst whether Dify is asked to stop the run before it is looked up
    record Question(Attempt attempt, Purpose purpose, Symptom symptom, Optional<RunRef> run, boolean stopsFirst) {}

    /// Follows an attempt whose outcome is unknown. Notes facts, decides nothing: see
    /// [LookUpRules], which has a picture of the stages. Only the engine's thread uses it.
    static final class LookUp {
        /// Dify stops a run within a second, but not during a node's call of a model
        /// or another server.
        private static final Duration STOP_TIMEOUT = Duration.ofSeconds(30);
        /// Dify may report `stopped` a moment before a run's real end, or an empty answer a moment
        /// before the text, so the run is looked up again after this time.
        private static final Duration END_DELAY = Duration.ofSeconds(2);

        final Attempt attempt;
        final Purpose purpose;
        final Verdict.Unresolved reason;
        final Response reported; // as much of the attempt's end as its own response showed
        private Stage stage = Stage.ASKED;
        private Optional<RunRef> run;
        /// Hold when the run started, by the server's report, and when a look-up was
        /// first answered.
        private Optional<Instant> runStart = Optional.empty(), answeredAt = Optional.empty();
        private Instant cutAt, deadline;
        private int looks = 0;
        private boolean isShown = false; // whether a look-up has shown the run

        /// Holds what look-ups have shown so far. `ASKED`: nothing, because none was answered.
        /// `ABSENT`: the server lists no run. `ACTIVE`: it has a run. `ENDED`: it reported once
        /// that the run was stopped, or has an empty answer. `OVERDUE`: the run's time is over, and
        /// Dify was asked to stop it.
        enum Stage { ASKED, ABSENT, ACTIVE, ENDED, OVERDUE }

        LookUp(Attempt attempt, Purpose purpose, Response reported, Verdict.Unresolved reason) {
            this.attempt = attempt;
            this.purpose = purpose;
            this.reported = reported;
            this.reason = reason;
            this.run = reported.run();
        }

        /// Creates the look-up of an attempt that counted as not started. Its time
        /// begins with its first question.
        static LookUp recheck(Attempt attempt, Purpose purpose) {
            var reason = new Verdict.Unresolved(Symptom.NO_ANSWER, "an earlier request was considered not started");
            return new LookUp(attempt, purpose, Response.NOTHING, reason).within(attempt.at(), Instant.MAX);
        }

        /// Sets when the response was cut off, and until when an active run is waited for.
        LookUp within(Instant cutAt, Instant deadline) {
            this.cutAt = cutAt;
            this.deadline = deadline;
            return this;
        }

        /// @param isShown whether a look-up of its stream has shown its run
        LookUp knowing(boolean isShown) {
            this.isShown |= isShown;
            return this;
        }

        /// An overdue run is stopped before its first look-up.
        Question question(Instant now, Duration timeout) {
            if (deadline.equals(Instant.MAX)) deadline = now.plus(timeout);
            return new Question(attempt, purpose, reason.symptom(), run, stage == Stage.OVERDUE && looks == 0);
        }

        /// Notes the facts in a result. The timeout counts from the run's start,
        /// because the request may have waited in a queue. The server's clock may be
        /// wrong, but the run started between its request and the look-up. The time
        /// that Dify took to move it to another worker does not count.
        void note(LookUpResult found, Instant now, Duration timeout) {
            run = run.filter(ref -> !ref.isMadeUp()).or(found::run).or(() -> run);
            isShown |= found.isThere();
            if (!(found instanceof LookUpResult.Inconclusive)) answeredAt = answeredAt.or(() -> Optional.of(now));
            if (!(found instanceof LookUpResult.Running running)) return;
            runStart = runStart.or(() -> running.age().map(now::minus)
                    .map(reported -> Collections.max(List.of(attempt.at(), Collections.min(List.of(reported, now))))));
            if (stage != Stage.OVERDUE)
                runStart.ifPresent(from -> deadline = from.plus(timeout).plus(running.moved()));
        }

        /// Enters a stage, and returns when the run is looked up in it. The pause grows from 0.5 s,
        /// for runs that are about to end, to 15 s. An overdue run is stopped at once, and stays
        /// overdue until it is reported as stopped.
        Instant lookAgain(Stage next, Instant now) {
            var former = stage;
            if (stage != Stage.OVERDUE || next == Stage.ENDED) stage = next;
            var due = now.plusMillis(Math.min(15_000, (long) (500 * Math.pow(1.5, looks++))));
            if (stage == Stage.ENDED && former != stage) return now.plus(END_DELAY);
            if (stage != Stage.OVERDUE || former == stage)
                return now.isBefore(deadline) && due.isAfter(deadline) ? deadline : due;
            looks = 0;
            deadline = now.plus(STOP_TIMEOUT);
            return now;
        }

        boolean isOver(Instant now) {
            return !now.isBefore(deadline);
        }

        /// Returns whether the run may be active, so that it holds one of the server's slots.
        boolean holdsSlot() {
            return switch (stage) {
                case ASKED -> purpose == Purpose.OUTCOME && reason.symptom().isOurs();
                case ACTIVE, OVERDUE -> true;
                case ABSENT, ENDED -> false;
            };
        }

        /// Returns whether a run of an earlier session may have cost what no file shows. If it is
        /// still active, it is one of the rows in flight.
        boolean isUncounted() {
            return is(Symptom.LOST_RESULT) || stage == Stage.ASKED && purpose == Purpose.OUTCOME
                    && !reason.symptom().isOurs();
        }

        /// Returns whether something has shown a run once. It is never absent again.
        boolean hasRun() {
            return reported.httpStatus() == 200 || isShown;
        }

        boolean is(Symptom symptom) {
            return reason.symptom() == symptom;
        }

        Instant start() {
            return runStart.orElse(attempt.at());
        }

        Optional<RunRef> run() {
            return run;
        }

        Stage stage() {
            return stage;
        }

        Optional<Instant> answeredAt() {
            return answeredAt;
        }

        Instant cutAt() {
            return cutAt;
        }
    }

    sealed interface LookUpResult {
        /// Another request started the run with this id. That shows nothing about
        /// the run that is looked for.
        LookUpResult FOREIGN = new Inconclusive(Response.Refused.unexpected("the run belongs to another request"));

        /// @param inputs the inputs that the server recorded as sent, as cells
        /// @param at     when the run ended, by the server's clock; empty if unknown
        record Ended(Response.Ran ran, Map<String, String> inputs, Optional<Instant> at) implements LookUpResult {}

        /// The run is still active or paused. Its `age` is by the server's clock. `moved` is how
        /// long Dify took to move it from a worker that was shut down.
        record Running(RunRef ref, Response.RunStatus status, Optional<Duration> age, Duration moved)
                implements LookUpResult {}

        /// The chatflow's message has no answer. It shows only whether the run has ended.
        record Unanswered(boolean isOver) implements LookUpResult {}

        /// There is no such run. Dify either reported that, or its list of the
        /// attempt's runs is empty.
        record Absent() implements LookUpResult {}

        /// Dify has no route that shows such a row, so nothing was asked.
        record Unlisted() implements LookUpResult {}

        /// The look-up failed: no response came, or a response that shows nothing about the run.
        ///
        /// @param listed the run if a list has shown it, although its record could not be read. It
        ///               is [RunRef#NONE] if the list has only the conversation
        record Inconclusive(Response response, Optional<RunRef> listed) implements LookUpResult {
            Inconclusive(Response response) {
                this(response, Optional.empty());
            }

            /// Returns whether the response shows that the server works. A proxy may send an error
            /// that may pass while Dify is down.
            boolean isAnswer() {
                return response instanceof Response.Unreadable || listed.isPresent()
                        || response instanceof Response.Refused refused && !refused.isTransient();
            }
        }

        default Optional<RunRef> run() {
            return switch (this) {
                case Ended(var ran, _, _) -> ran.run();
                case Running running -> Optional.of(running.ref());
                case Inconclusive(var response, var listed) -> response.run().or(() -> listed.filter(RunRef::isNamed));
                case Unanswered _, Absent _, Unlisted _ -> Optional.empty();
            };
        }

        /// Returns whether the server has the run. A record of it may be too large to be read.
        default boolean isThere() {
            return this instanceof Inconclusive(var response, var listed)
                    ? listed.isPresent() || response instanceof Response.Unreadable
                    : !(this instanceof Absent || this instanceof Unlisted);
        }

        /// Returns this result of a run that a list has shown. It is not absent,
        /// even if its record is.
        default LookUpResult listed(RunRef run) {
            return switch (this) {
                case Absent _ -> new Inconclusive(
                        new Response.Cut(Symptom.CUT, "Dify lists the run, but has no record of it"), Optional.of(run));
                case Inconclusive(var response, _) -> new Inconclusive(response, Optional.of(run));
                case Ended _, Running _, Unanswered _, Unlisted _ -> this;
            };
        }

        default String word() {
            return switch (this) {
                case Ended(var ran, _, _) -> ran.status().word();
                case Running running -> running.status().word();
                case Unanswered _ -> "unanswered";
                case Absent _ -> "absent";
                case Unlisted _ -> "not listed";
                case Inconclusive(Response.Unreadable _, _) -> "unreadable";
                case Inconclusive(_, var listed) -> listed.isPresent() ? "listed" : "no response";
            };
        }
    }

    /// Holds the reason why a batch ends before its rows do, the remedy, and the exit code.
    record Stop(Exit exit, String what, String hint) {
        Stop {
            what = Text.printable(what, 1000); // may contain a server's text, of any length
            hint = Text.printable(hint, 1000);
        }

        static Stop early(String what, String hint) {
            return new Stop(Exit.STOPPED, what, hint);
        }

        /// Returns both reasons, because the first must not hide that the disk failed.
        static Optional<Stop> all(Optional<Stop> first, Optional<Stop> disk) {
            if (first.isEmpty() || disk.isEmpty()) return first.or(() -> disk);
            var text = first.get().what;
            var both = text.endsWith(disk.get().what) ? text : text + "; " + disk.get().what;
            return Optional.of(new Stop(disk.get().exit, both, disk.get().hint));
        }

        Unusable asError() {
            return new Unusable(exit, what, hint);
        }

        String text() {
            return "Stopped: " + what + "." + Text.around("\nhint: ", hint, "");
        }
    }

    /// Holds the values of `--mode`. An attempt is never sent with `AUTO`, which
    /// lets the [ModePolicy] choose.
    enum Mode {
        AUTO, BLOCKING, STREAMING;

        static Mode of(String word) {
            if (word.equals("blocking")) return BLOCKING;
            if (word.equals("streaming")) return STREAMING;
            throw new IllegalArgumentException(word);
        }

        @JsonValue
        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }
    }

    /// Lists Dify's kinds of apps, with the facts by which they differ. Only the first two run a
    /// workflow. The others are processed by Dify's API itself, and nothing but a message is stored
    /// of their rows. If the client of a stream disconnects, the model answers to the end and is
    /// paid, but Dify drops the answer.
    enum AppKind implements Named {
        WORKFLOW("workflow", "/workflows/tasks", Mode.AUTO),
        CHATFLOW("advanced-chat", "/chat-messages", Mode.AUTO),
        CHAT("chat", "/chat-messages", Mode.BLOCKING), // only a blocking row keeps its answer after a cut
        AGENT_CHAT("agent-chat", "/chat-messages", Mode.STREAMING),
        AGENT("agent", "/chat-messages", Mode.STREAMING),
        // its pings keep proxies from cutting it
        COMPLETION("completion", "/completion-messages", Mode.STREAMING);

        private final String mode;
        final String tasks; // the path of its tasks
        final Mode auto; // the mode that `auto` stands for; AUTO if that depends on the server

        AppKind(String mode, String tasks, Mode auto) {
            this.mode = mode;
            this.tasks = tasks;
            this.auto = auto;
        }

        /// Finds a kind by the `mode` of `GET /info`.
        static Optional<AppKind> of(String mode) {
            return Stream.of(values()).filter(kind -> kind.mode.equals(mode)).findFirst();
        }

        /// Returns whether a row is a run of a workflow. Otherwise, a stream must
        /// not be closed before its end.
        boolean hasRuns() {
            return this == WORKFLOW || this == CHATFLOW;
        }

        boolean hasConversations() {
            return this != WORKFLOW && this != COMPLETION;
        }

        /// Returns the delay between a request and its first look-up. An earlier look-up of a
        /// conversation can make Dify create two users of that name, which hides the row for good
        /// (`chatflow_early_look.json`, where half a second was enough).
        Duration firstLook() {
            return hasConversations() ? Duration.ofSeconds(2) : Duration.ZERO;
        }
    }

    /// Holds Dify's URL and the key. `toString` leaves out the key.
    ///
    /// @param appId the app that is meant, if the key is one of several apps, or empty
    record Access(URI baseUrl, String key, String appId, String workflowId, Optional<URI> proxy,
            Optional<Env.Setting> caFile) {
        /// Returns the server's name for a batch's log. A demo has a new port each time.
        String name() {
            return Demo.KEY.equals(key) ? "demo" : baseUrl.toString();
        }

        /// Returns the app's name for a batch's log: `<salt>-<hash>`, because Dify reports no id of
        /// an app. The salt keeps the key secret, and hides that two logs have the same key.
        String appHash(String salt) {
            return salt + "-"
                    + HexFormat.of().toHexDigits(Fingerprint.of(Map.of("salt", salt, "key", key, "app", appId)));
        }

        boolean hasAppHash(String recorded) {
            return recorded.equals(appHash(recorded.split("-", 2)[0]));
        }

        URI at(String path) {
            return URI.create(baseUrl + path);
        }

        String advice() {
            return baseUrl.getPath().isEmpty() ? "it has no path; set DIFY_API_BASE_URL to " + baseUrl + "/v1"
                    : "check DIFY_API_BASE_URL, it usually ends in /v1";
        }

        /// Returns advice for a key that Dify rejects. Dify's own command line tool
        /// has other tokens.
        String keyAdvice() {
            return !key.matches("dfo[ae]_.*") ? "check DIFY_API_KEY and that it belongs to the app at " + this
                    : "tokens with dfoa_ or dfoe_ are for difyctl; use the app's key, which begins with app-";
        }

        @Override
        public String toString() {
            return baseUrl.toString();
        }
    }

    /// @param isAssumed true only in a log of 0.4.0 or 0.5.0, after `--same-app`: nothing shows
    ///                  that this app has the runs of earlier sessions
    /// @param kind      the kind of the app in words; empty in a log of 0.4.0
    record AppClaim(@JsonProperty("app_hash") String hash, @JsonProperty("app_id") String id,
            @JsonProperty("same_app") @JsonInclude(JsonInclude.Include.NON_DEFAULT) boolean isAssumed,
            @JsonProperty("app_kind") @JsonInclude(JsonInclude.Include.NON_EMPTY) String kind) {
        AppClaim {
            kind = Objects.requireNonNullElse(kind, "");
        }

        /// Returns this text and the kind, or an empty text if the kind is unknown.
        String inWords(String before) {
            return Text.around(before, Text.printable(kind, 20), ""); // a file may contain any text
        }
    }

    /// Runs one row. A server's report or silence never causes an exception, which the engine would
    /// take for a fault of its own.
    interface Workflow {
        Response run(Attempt attempt, Consumer<StreamEvent> listener);

        LookUpResult look(Question question);

        void stop(RunRef run, String user);

        /// Sends a request that starts no run. Returns empty if the server responded
        /// well, otherwise what happened.
        Optional<Response> probe();
    }

    /// A worker's report about a run in progress. Names and texts are as the server sends them.
    sealed interface StreamEvent {
        /// A file was uploaded. The time limit of the run does not include uploads,
        /// so it starts again.
        record Uploaded() implements StreamEvent {}

        /// The first event of a stream came, which contains the id of its run.
        record Began(RunRef run) implements StreamEvent {}

        /// A stream has been silent for a while after its first event.
        record Idle(RunRef run) implements StreamEvent {}

        /// The run has succeeded, and its files are about to be saved once the log has its id.
        record Finished(RunRef run, CompletableFuture<Void> recorded) implements StreamEvent {}

        /// The run waits for a person. Anyone with the token can answer the form.
        record Form(String run, String node, String token, Optional<Instant> until) implements StreamEvent {}

        /// The time of a form is over, and the run continues without an answer.
        record FormExpired(String node) implements StreamEvent {}

        /// Any other event came. A ping is not an event.
        record OtherEvent() implements StreamEvent {}

        /// An event that a live view of a run shows.
        sealed interface Live extends StreamEvent {}

        record NodeBegan(String title, String type) implements Live {}

        record NodeEnded(String title, String type, String status, double seconds, String error) implements Live {}

        record Chunk(String text) implements Live {}
    }

    // ── Demo ─────────────────────────────────────────────────────────────────

    /// Runs a small Dify inside this process, with real HTTP on loopback, so that
    /// difyexec works as always. It is one app with a text variable for each column, and
    /// responds as the recorded servers do. A run continues after its client has
    /// disconnected, because look-ups must find it.
    static final class Demo implements AutoCloseable {
        /// The newest Dify that was tested.
        static final String VERSION = "1.16.1";
        /// The key to send, by which the batch records to which app it belongs.
        static final String KEY = "app-demo";
        /// The workflow has a published version, and an earlier version that a user can pin.
        private static final String PUBLISHED = uuid("workflow"), EARLIER = uuid("workflow, the version before");

        private final List<String> columns;
        /// A marker takes effect once for each row.
        private final Set<String> usedMarkers = ConcurrentHashMap.newKeySet();
        private final Deque<Job> jobs = new ConcurrentLinkedDeque<>(); // the newest first, as Dify lists runs
        private final HttpServer server;
        /// Every request has a thread, because most of them wait for the end of a run.
        private final ExecutorService threads = Executors.newVirtualThreadPerTaskExecutor();

        /// Starts the server. The longest route that a path begins with gets the
        /// request, so their order does not matter.
        Demo(List<String> columns) throws IOException {
            this.columns = List.copyOf(columns);
            // port 0 is any free port; a large -c opens more connections at once
            // than Java's 50 that may wait
            server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 1024);
            server.setExecutor(threads);
            route("/v1/info", exchange -> send(exchange, 200, object("name", "demo", "mode", "workflow")));
            route("/v1/parameters", exchange -> send(exchange, 200, object("user_input_form", columns.stream()
                    .map(column -> object("paragraph",
                            object("label", column, "variable", column, "type", "paragraph",
                            "required", false))).toList()))); // empty cells are fine
            route("/v1/workflows/run", exchange -> run(exchange, PUBLISHED));
            route("/v1/workflows/", exchange -> run(exchange, part(exchange, 3))); // the version's id
            route("/v1/workflows/run/", this::sendDetail);
            route("/v1/workflows/logs", this::sendList);
            route("/v1/workflows/tasks/", this::stop);
            server.start();
        }

        URI baseUrl() {
            return URI.create("http://127.0.0.1:" + server.getAddress().getPort() + "/v1");
        }

        /// Returns the version if it is one of the demo's two. `DIFY_WORKFLOW_ID`
        /// may be set for a real server.
        static String knownVersion(String workflow) {
            return List.of(PUBLISHED, EARLIER).contains(workflow.strip()) ? workflow.strip() : "";
        }

        @Override
        public void close() {
            server.stop(0); // 0 seconds, because nobody needs the responses that are still open
            threads.shutdownNow(); // ends the waits for runs
        }

        /// Holds the state of a run, which is final except for `running`.
        ///
        /// @param error null if the run has no error, as in Dify's JSON
        /// @param at    when the run ended, or started if it is active
        private record State(String status, Map<String, Object> outputs, String error, int tokens, Instant at) {
            /// Returns the run's price, which is invented. Like Dify's, it is a text
            /// with seven decimals.
            Map<String, Object> price() {
                return object("total_tokens", tokens, "total_price", BigDecimal.valueOf(tokens * 15L, 7)
                        .toPlainString(), "currency", "USD");
            }
        }

        /// Holds a run. Ids of further objects follow from its id.
        ///
        /// @param end is complete as soon as the run has ended. The first result
        ///            counts, so a stop may come too late
        private record Job(String workflow, String id, String task, String user, Map<String, String> inputs,
                Instant created, CompletableFuture<State> end) {
            void fail(String status, String error) {
                end.complete(new State(status, Map.of(), error, 0, Instant.now()));
            }

            private State state() {
                return end.getNow(new State("running", Map.of(), null, 0, created));
            }

            /// Returns how long the run took, in seconds with six decimals, as Dify does.
            private double seconds() {
                return Duration.between(created, state().at()).toNanos() / 1000 / 1e6;
            }

            Map<String, Object> stored() {
                var state = state();
                return object("id", id, "workflow_id", workflow, "status", state.status(), "outputs", state.outputs(),
                        "error", state.error(), "elapsed_time", seconds(), "total_tokens", state.tokens(),
                        // start, model and end; only a run that succeeds reaches the end
                        "total_steps", state.status().equals("succeeded") ? 3 : 2,
                        "created_at", created.getEpochSecond(),
                        "finished_at", end.isDone() ? state.at().getEpochSecond() : null);
            }

            /// Waits until the run has ended and returns the last events of its stream, in Dify's
            /// order. After a stop, Dify sends no event for the node.
            List<Map<String, Object>> finalEvents() {
                var state = end.join();
                var events = new ArrayList<Map<String, Object>>();
                var text = state.outputs().getOrDefault("answer", "").toString();
                for (var word : text.split("(?<= )")) if (!word.isEmpty()) events.add(
                        event("text_chunk", object("text", word, "from_variable_selector", List.of("llm", "text"))));
                if (!state.status().equals("stopped")) events.add(node("node_finished", "status", state.status(),
                        "error", state.error(), "outputs", object("text", text), "elapsed_time", seconds(),
                        "execution_metadata", state.price()));
                events.add(event("workflow_finished", stored()));
                return events;
            }

            Map<String, Object> node(String event, Object... more) {
                var data = object("id", uuid(id + "llm"), "node_id", "llm", "node_type", "llm", "title", "llm");
                data.putAll(object(more));
                return event(event, data);
            }

            Map<String, Object> event(String name, Map<String, Object> data) {
                return object("event", name, "task_id", task, "workflow_run_id", id, "data", data);
            }
        }

        /// Starts a run of 80 to 300 ms, so that progress can be seen. A marker in a
        /// value lets a user try a fault:
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
            var job = new Job(workflow, UUID.randomUUID().toString(), UUID.randomUUID().toString(),
                    body.path("user").asText(), inputs, Instant.now(), new CompletableFuture<>());
            jobs.addFirst(job);
            var text = String.join("\n", inputs.values());
            int millis = text.contains("[slow]") ? 5000 : 80 + Math.floorMod(text.hashCode(), 221);
            // a timer, because the run continues although its client may have left;
            // Runnable::run uses its own thread
            CompletableFuture.delayedExecutor(millis, MILLISECONDS, Runnable::run).execute(() -> {
                if (text.contains("[fail]")) job.fail("failed", "Run failed: the model refused this input");
                else if (useMarker("[flaky]", job)) // difyexec must take it for a failure that passes
                    job.fail("failed", "[openai] Rate Limit Error, 429 Too Many Requests");
                else job.end().complete(new State("succeeded", object(
                        // the two versions answer differently, so that `compare` has
                        // something to show
                        "answer", (workflow.equals(EARLIER) ? "Answer to: " : "Demo answer to: ") + question(inputs),
                        "row_id", inputs.get("id")), null, // shows that each row gets its own result
                        16 + text.codePointCount(0, text.length()) / 3, Instant.now())); // about as a model counts
            });
            return job;
        }

        /// Returns the longest text apart from the id, which is most likely what the row is
        /// about.
        private static String question(Map<String, String> inputs) {
            return inputs.entrySet().stream().filter(input -> !input.getKey().equals("id"))
                    .map(Map.Entry::getValue)
                    .max(Comparator.comparingInt(String::length)).orElse(inputs.get("id"));
        }

        private boolean useMarker(String marker, Job job) {
            return job.inputs().values().stream().anyMatch(value -> value.contains(marker))
                    && usedMarkers.add(marker + job.inputs().get("id"));
        }

        /// Adds a route. Every response contains the version, from which difyexec
        /// learns what to expect.
        private void route(String path, HttpHandler handler) {
            server.createContext(path, exchange -> {
                exchange.getResponseHeaders().set("X-Version", VERSION);
                handler.handle(exchange);
            });
        }

        /// Starts a run and responds as the request asks.
        private void run(HttpExchange exchange, String workflow) throws IOException {
            var body = Json.MAPPER.readTree(exchange.getRequestBody().readAllBytes());
            var job = start(workflow, body);
            boolean isDropped = useMarker("[drop]", job); // after the start, because the run itself succeeds
            if (body.path("response_mode").asText().equals("streaming")) {
                stream(exchange, job, isDropped);
                return;
            }
            job.end().join();
            if (isDropped) exchange.close(); // no response has been started, so this closes the connection
            else send(exchange, 200,
                    object("task_id", job.task(), "workflow_run_id", job.id(), "data", job.stored()));
        }

        /// Responds with the run's events. A dropped stream stops in the middle of
        /// an event, after the run's id.
        private void stream(HttpExchange exchange, Job job, boolean isDropped) throws IOException {
            exchange.getResponseHeaders().set("Content-Type", "text/event-stream; charset=utf-8");
            exchange.sendResponseHeaders(200, 0); // 0, because the length is not known yet
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

        private void sendDetail(HttpExchange exchange) throws IOException {
            var job = jobs.stream().filter(one -> one.id().equals(part(exchange, 4))).findFirst();
            var detail = job.map(Job::stored).orElseGet(() -> object("code", "not_found"));
            job.ifPresent(found -> detail.put("inputs", Json.text(found.inputs())));
            send(exchange, job.isPresent() ? 200 : 404, detail);
        }

        /// Sends the runs of a user. Each entry shows the user, because difyexec rejects a list
        /// that does not.
        private void sendList(HttpExchange exchange) throws IOException {
            var user = URLDecoder.decode(exchange.getRequestURI().getRawQuery()
                    .replaceFirst(".*\\bcreated_by_end_user_session_id=([^&]*).*", "$1"), UTF_8);
            var listed = jobs.stream().filter(job -> job.user().equals(user)).map(job -> object(
                    "id", uuid(job.id() + "log"), "workflow_run", job.stored(),
                    "created_by_end_user", object("session_id", job.user()))).toList();
            send(exchange, 200, object("total", listed.size(), "has_more", false, "data", listed));
        }

        /// Stops a run. As in Dify, the response is the same for a task that is
        /// unknown or has ended.
        private void stop(HttpExchange exchange) throws IOException {
            jobs.stream().filter(job -> job.task().equals(part(exchange, 4)))
                    .forEach(job -> job.fail("stopped", "Aborted: User requested stop"));
            send(exchange, 200, object("result", "success"));
        }

        /// Returns a part of the path, or an empty text: part 4 of
        /// `/v1/workflows/run/abc` is `abc`.
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

        private static void write(OutputStream out, Map<String, Object> event) throws IOException {
            out.write(("data: " + Json.text(event) + "\n\n").getBytes(UTF_8));
            out.flush();
        }

        /// Returns the same id for the same name, so that a version's id is the same
        /// in every demo and in the docs.
        private static String uuid(String name) {
            return UUID.nameUUIDFromBytes(name.getBytes(UTF_8)).toString();
        }
    }

    // ── Basics ───────────────────────────────────────────────────────────────

    static final String VERSION = "0.5.0", NAME_AND_VERSION = "difyexec " + VERSION;

    /// Gives a constant of an enum its key in files and its words for people.
    /// Renaming it changes a file format.
    interface Named {
        String name(); // every enum has this method

        default String key() {
            return name().toLowerCase(Locale.ROOT);
        }

        default String word() {
            return key().replace('_', ' ');
        }
    }

    /// picocli itself returns 2 for a bad command line, and 1 for an exception that
    /// nothing catches.
    enum Exit {
        OK(0), BUG(1), UNUSABLE(2), ROWS_FAILED(3), STOPPED(4), INTERRUPTED(130);

        final int code;

        Exit(int code) {
            this.code = code;
        }

        static Exit ofRows(boolean areDone) {
            return areDone ? OK : ROWS_FAILED;
        }
    }

    /// Ends a command before it starts any run. The message is one sentence about
    /// what cannot be used and where.
    static class Unusable extends RuntimeException {
        final Exit exit; // usually UNUSABLE, but STOPPED if the server does not respond
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

        static Unusable of(Throwable problem) {
            return new Unusable(Text.reason(problem), Platform.HERE.remedy(problem));
        }

        String what() {
            return getMessage();
        }

        String text() {
            return what() + Text.around("\nhint: ", hint, "");
        }
    }

    /// Signals a bug: something does not hold that always must, so what the tool
    /// believes about its batch is wrong. The command ends before it sends anything
    /// else, and its files stay as they are.
    static final class Invariant extends IllegalStateException {
        private Invariant(String what) {
            super(what);
        }

        /// @param what what has happened if it does not hold; never the text of a row
        static void hold(boolean holds, String what) {
            if (!holds) throw new Invariant(what);
        }

        /// Writes a file for a report, without cells and without the key. Returns
        /// the message for the user.
        Unusable report() {
            var trace = new StringWriter();
            printStackTrace(new PrintWriter(trace));
            try {
                var file = Files.createTempFile("difyexec-", ".txt");
                Files.writeString(file, NAME_AND_VERSION + "\nJava " + Runtime.version() + "\n" + trace);
                return new Unusable(Exit.BUG, "internal error: " + getMessage() + "; nothing else was sent",
                        "attach " + file + " to a report; the next run resumes");
            } catch (IOException problem) {
                addSuppressed(problem);
                throw this;
            }
        }
    }

    /// Holds the API key. It is refused where a user enters it, and masked in the
    /// text of a server when it is read, so files and requests need no masking. As a
    /// second line of defence, the terminal's writer masks it, and any text that
    /// looks like a key of Dify or the password in a URL.
    static final class Secret {
        /// Matches the key of an app, `app-…`, or of a workspace, `sk-<uuid>`, or a token of Dify's
        /// command line tool, `dfoa_…`. A shorter text may be a word such as `app-store`, unless it
        /// was cut off before a `…`. The end of a longer word, such as `my-app-…`, is not a key.
        private static final String DIFY_KEY = "(?<!\\w|\\w-)(?:app-(?:[A-Za-z0-9]{16,}|[A-Za-z0-9]+(?=…))"
                + "|sk-(?:[A-Za-z0-9-]{16,}|[A-Za-z0-9-]+(?=…))|dfo[ae]_(?:[\\w-]{16,}|[\\w-]+(?=…)))";
        /// Matches the user and password of a URL such as `http://me:secret@proxy:3128`.
        private static final String PASSWORD_IN_URL = "(?<=//)[^/@\\s]+(?=@)";
        /// Such a short text could occur by chance.
        private static final int MIN_LENGTH = 8;
        private static final Secret NONE = new Secret("");
        /// Holds the key of the command that runs in a thread.
        static final ScopedValue<Secret> CURRENT = ScopedValue.newInstance();

        private final String key; // empty if there is nothing to mask
        private final Pattern inText;

        /// A key of lower-case letters alone could be the name of a field, and one of digits a part
        /// of a number. Masking them would damage responses.
        Secret(String key) {
            this.key = key.length() < MIN_LENGTH || key.matches("[a-z_]*|[\\d.eE+-]*") ? "" : key;
            var others = DIFY_KEY + "|" + PASSWORD_IN_URL;
            inText = Pattern.compile(this.key.isEmpty() ? others : wholeOrCut() + "|" + others);
        }

        /// Builds a pattern of the key, or of its beginning before a `…`:
        /// `app-12345|(?:app-12345|app-1234)(?=…)`. The longest beginning comes
        /// first, because the first match counts.
        private String wholeOrCut() {
            var beginnings = IntStream.rangeClosed(MIN_LENGTH, key.length())
                    .mapToObj(end -> Pattern.quote(key.substring(0, end))).toList().reversed();
            return Pattern.quote(key) + "|(?:" + String.join("|", beginnings) + ")(?=…)";
        }

        static Secret current() {
            return CURRENT.orElse(NONE);
        }

        boolean occursIn(String text) {
            return !key.isEmpty() && text.contains(key);
        }

        /// Replaces all that looks like a key or password with `***`, but not the
        /// prefix, which shows the kind of key.
        String mask(String text) {
            return inText.matcher(text).replaceAll(found -> masked(found.group()));
        }

        private static String masked(String key) {
            return key.replaceFirst("^(app-|sk-|dfo[ae]_)?.*", "$1***");
        }

        String maskKey(String text) {
            return occursIn(text) ? text.replace(key, masked(key)) : text;
        }

        /// Masks the key in JSON that a server sent, in which it may have been escaped.
        JsonNode maskKey(JsonNode json) {
            return Json.hasText(json, this::occursIn) ? Json.parse(maskKey(json.toString())) : json;
        }

        /// Returns a writer that holds back text until a flush, so that a key in two
        /// parts is masked.
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
                /// A string has no errors, so this asks the writer behind it, whose
                /// pipe may be closed.
                @Override
                public boolean checkError() {
                    flush();
                    return to.checkError();
                }
            };
        }
    }

    /// Holds the settings of the process, from its environment, then from the `.env` files of the
    /// current folder and of the script's folder. Only [#needed] rejects a file that cannot be
    /// read, because most commands work without one.
    ///
    /// @param invocation the words that start this program, for use in hints
    record Env(UnaryOperator<String> environment, List<DotEnv> files, String invocation) {
        /// The key in `.env.example`. A user who copies that file and does not edit
        /// it has no key yet.
        static final String PLACEHOLDER = "app-your-key-here";

        /// @param source such as ` in .env`, to follow the name in a message; empty
        ///               for the environment
        /// @param fault  why the value cannot be read, or empty; `remedy` is then the hint
        record Setting(String name, String text, String source, String fault, String remedy) {
            Setting(String name, String text, String source) {
                this(name, text, source, "", "");
            }

            /// Describes a setting: `TIMEOUT=abc`, but only `TIMEOUT in .env`, because a line of a
            /// file may contain the key.
            String place() {
                return source.isEmpty() ? name + "=" + Text.printable(text, 60) : name + source;
            }
        }

        Env(UnaryOperator<String> environment, String invocation, Path... folders) {
            this(environment, Stream.of(folders).map(Path::toAbsolutePath).distinct()
                    .map(folder -> new DotEnv(folder.resolve(".env"))).toList(), invocation);
        }

        /// Returns the words that start this program: those that `./jbang` passes on, `java -jar`
        /// and the jar, `jbang DifyExec.java` if the script is in the current folder, and otherwise
        /// the installed command `difyexec`.
        ///
        /// @param typed the words that `./jbang` passes on, with a separator that
        ///              nobody types, or null
        static String findInvocation(String typed, List<String> args, String classPath, boolean isInFolder) {
            // -1 keeps empty words at the end, so that their number can be compared
            // with the size of `args`
            var words = typed == null ? List.<String>of() : List.of(typed.split("\037", -1));
            int own = Math.max(1, words.size() - args.size());
            // an installed command passes on one word; other arguments are from a
            // ./jbang that started our parent
            boolean isOurs = words.size() == 1
                    || words.size() > args.size() && words.subList(own, words.size()).equals(args);
            if (isOurs) return words.stream().limit(own).map(Text::shell).collect(joining(" "));
            boolean isJar = classPath.endsWith(".jar") && !classPath.contains(File.pathSeparator);
            if (isJar) return "java -jar " + Text.shell(classPath);
            return isInFolder ? "jbang DifyExec.java" : "difyexec";
        }

        /// Reads the file of `--env-file` instead of `.env`, before anything is
        /// printed, so that the key is masked.
        Env with(String... args) {
            var file = typedValue("--env-file", List.of(args)).filter(name -> !name.isBlank())
                    .flatMap(Storage::path);
            if (file.isEmpty()) return this;
            return new Env(environment, List.of(new DotEnv(file.get().toAbsolutePath())), invocation);
        }

        /// Returns the value of an option that is needed before, or although,
        /// picocli cannot parse the words.
        static Optional<String> typedValue(String option, List<String> words) {
            var options = words.stream().takeWhile(word -> !word.equals("--")).toList();
            for (int at = 0; at < options.size(); at++) {
                var word = options.get(at);
                if (word.startsWith(option + "=")) return Optional.of(word.substring(option.length() + 1));
                if (word.equals(option) && at + 1 < options.size()) return Optional.of(options.get(at + 1));
            }
            return Optional.empty();
        }

        /// Returns the first setting that has a value, or whose line cannot be read,
        /// because the user meant it to count.
        Optional<Setting> setting(String name) {
            return settings(name).filter(setting -> !setting.fault().isEmpty()
                    || !setting.text().isBlank() && !setting.text().strip().equals(PLACEHOLDER)).findFirst();
        }

        Optional<Setting> needed(String name) {
            var setting = setting(name);
            if (setting.isPresent() && !setting.get().fault().isEmpty())
                throw new Unusable(setting.get().place() + ": " + setting.get().fault(), setting.get().remedy());
            return setting;
        }

        String get(String name) {
            return setting(name).map(Setting::text).orElse("");
        }

        /// Returns the first page of the documentation, which is next to the script;
        /// a jar has none.
        Optional<Path> readme() {
            return files.stream().map(dotEnv -> dotEnv.file.resolveSibling("README.md").normalize()).filter(readme ->
                    Files.exists(readme) && Files.exists(readme.resolveSibling("DifyExec.java"))).findFirst();
        }

        private Stream<Setting> settings(String name) {
            var set = Stream.ofNullable(environment.apply(name)).map(text -> new Setting(name, text, ""));
            return Stream.concat(set, files.stream().flatMap(file -> file.setting(name).stream()));
        }

        Secret secret() {
            return new Secret(get("DIFY_API_KEY").strip());
        }

        /// Returns the message for a setting that is missing or cannot be one:
        /// `DIFY_API_KEY is missing (not in .env)`.
        String missing(String name) {
            var read = files.stream().filter(file -> Files.exists(file.file)).map(DotEnv::name).collect(joining(", "));
            return settings(name).findFirst().map(empty -> name + " is empty or a placeholder" + empty.source())
                    .orElse(name + " is missing" + Text.around(" (not in ", read, ")"));
        }

        /// Warns about unknown names in `.env` that may be meant for a setting. A misspelled name
        /// of the URL would send the key to another server.
        List<String> unknownNames(Collection<String> others) {
            var known = Stream.concat(others.stream(), Stream.of("DIFY_API_KEY", "DIFY_CA_FILE")).sorted().toList();
            return files.stream().flatMap(file -> file.values().keySet().stream().filter(name -> !known.contains(name))
                    .sorted().map(name -> Map.entry(name, Nearest.of(name, known.stream(),
                            name.startsWith("DIFY_") ? name.length() / 3 : 2, 2)))
                    .filter(near -> !near.getValue().isEmpty() || near.getKey().startsWith("DIFY_"))
                    .map(near -> "Warning: " + near.getKey() + " in " + file.name() + " is not a setting of difyexec"
                            + Text.around("; did you mean ", String.join(" or ", near.getValue()), "?"))).toList();
        }

        /// Returns the proxy for a URL, from `HTTPS_PROXY`, `HTTP_PROXY` and
        /// `NO_PROXY`, in upper or lower case. A server on this machine never has
        /// one. Only proxies of `http` are supported.
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

        /// Returns whether standard input is closed. Java has then opened a file of
        /// its own under that number.
        static boolean isInputClosed() {
            try {
                return Path.of("/dev/fd/0").toRealPath().startsWith(System.getProperty("java.home"));
            } catch (IOException _) {
                return false; // a pipe has no path
            }
        }

        /// Returns whether the host is this machine. Names are not resolved.
        static boolean isLoopback(String host) {
            return host.equalsIgnoreCase("localhost") || host.startsWith("127.") || host.equals("[::1]");
        }

        /// Reads a `.env` file. A message of dotenv-java is never printed, because it quotes the
        /// line, which may contain the key.
        static final class DotEnv {
            final Path file;
            private Map<String, String> values; // null until the file is read
            private String content = "", fault = "", remedy = ""; // of the whole file, such as its encoding

            DotEnv(Path file) {
                this.file = file;
            }

            String name() {
                return (file.getParent().equals(Path.of("").toAbsolutePath()) ? file.getFileName() : file).toString();
            }

            /// Returns a setting of this file. If the whole file cannot be read,
            /// every setting has that fault.
            Optional<Setting> setting(String wanted) {
                var value = values().get(wanted);
                var source = " in " + name();
                if (!fault.isEmpty()) return Optional.of(new Setting("", "", name(), fault, remedy));
                if (value == null && hasLine(wanted)) return Optional.of(new Setting(wanted, "", source,
                        "cannot be read", "write " + wanted + "=value"));
                return Optional.ofNullable(value).map(text -> new Setting(wanted, text, source));
            }

            /// Returns whether a line for the name is not understood by dotenv-java, such as
            /// `DIFY_API_KEY: app-1` or `$env:DIFY_API_KEY = "app-1"` of PowerShell.
            private boolean hasLine(String wanted) {
                return Pattern.compile("(?m)^[^\\w#\n]*((setx?|env)[^\\w\n]+)?" + wanted + "\\b").matcher(content)
                        .find();
            }

            /// Returns the values by name, without the single quotes that
            /// dotenv-java leaves around a value, and without `export` and a byte
            /// order mark. Malformed lines may be for other programs.
            Map<String, String> values() {
                if (values != null) return values;
                values = new HashMap<>();
                if (!Files.isRegularFile(file)) return values; // most folders have none
                try {
                    content = Files.readString(file).replaceFirst("^\uFEFF", "")
                            .replaceAll("(?m)^[ \t]*export[ \t]+", "");
                    var reader = new DotenvReader("", "") {
                        @Override
                        public List<String> read() {
                            return content.lines().toList();
                        }
                    };
                    boolean isStrict = false;
                    new DotenvParser(reader, isStrict, isStrict).parse().forEach(entry ->
                            values.put(entry.getKey(), entry.getValue().strip().replaceFirst("^'(.*)'$", "$1")));
                } catch (CharacterCodingException _) {
                    fault = "the file cannot be read";
                    remedy = "save it as UTF-8 text";
                } catch (IOException problem) {
                    fault = Text.reasonAlone(problem);
                    remedy = Platform.HERE.remedy(problem);
                }
                return values;
            }
        }
    }

    /// Decides what differs between Windows and other systems. A test can ask for either.
    enum Platform {
        UNIX, WINDOWS;

        static final Platform HERE = File.separatorChar == '\\' ? WINDOWS : UNIX;

        /// Returns the provider that JLine must use for terminals, unless its default will do. That
        /// is `ffm`, which fails on Windows when it is asked for a width. On Unix, it makes Java
        /// print warnings unless the start permits native calls; `exec` calls `stty` instead.
        Optional<String> terminalProvider(boolean allowsNativeCalls) {
            if (this == WINDOWS) return Optional.of("jni");
            return allowsNativeCalls ? Optional.empty() : Optional.of("exec");
        }

        /// Returns the command that runs a line in the system's shell. `cmd /s` removes only the
        /// outer quotes, so that those of a path with spaces stay.
        List<String> command(String line) {
            return this == WINDOWS ? List.of("cmd", "/s", "/c", '"' + line + '"') : List.of("sh", "-c", line);
        }

        /// Quotes a word so that a user can paste it into a shell, if it needs quotes. On Windows,
        /// the word has to mean the same to `cmd`, to PowerShell, which reads `@` and `,` in its
        /// own way, and to the program, which takes a backslash before a quote for an escape.
        String quote(String word) {
            if (word.matches("[\\p{L}\\p{N}_./:+=" + (this == WINDOWS ? "\\\\" : "@%,") + "-]+")) return word;
            // other control characters act on the shell
            var harmless = word.replaceAll("(?![\n\t])" + Text.CONTROL, "\uFFFD");
            if (this == WINDOWS) return '"' + harmless.replaceAll("(\\\\*)\"", "$1$1\\\\\"")
                    .replaceFirst("(\\\\+)$", "$1$1") + '"';
            // sh ends the text, reads the escaped quote, and starts another text
            return "'" + harmless.replace("'", "'\\''") + "'";
        }

        /// Opens a file that gets lines. On Windows, nobody can rename or replace a file that was
        /// opened with `java.io`, unlike one of `java.nio`, and it has no key that would show that.
        FileChannel openInPlace(Path path) throws IOException {
            if (this == WINDOWS) return new RandomAccessFile(path.toFile(), "rw").getChannel();
            return FileChannel.open(path, StandardOpenOption.CREATE, StandardOpenOption.READ, StandardOpenOption.WRITE,
                    LinkOption.NOFOLLOW_LINKS);
        }

        /// Returns whether an error may mean that another program has the file open. Windows
        /// reports that as a missing permission, or as an error of no special type.
        boolean mayBeInUse(IOException problem) {
            return this == WINDOWS && (problem instanceof AccessDeniedException
                    || problem instanceof FileNotFoundException || problem.getClass() == FileSystemException.class);
        }

        /// Runs an action again for a while if a file may be in use, such as by a virus scanner,
        /// which reads each new file for a moment.
        <T> T whenFree(Duration patience, IOSupplier<T> action) throws IOException {
            long end = System.nanoTime() + patience.toNanos();
            for (long pause = 1_000_000; ; pause = Math.min(2 * pause, 250_000_000)) {
                try {
                    return action.get();
                } catch (IOException problem) {
                    boolean isOver = System.nanoTime() >= end || Thread.currentThread().isInterrupted();
                    if (isOver || !mayBeInUse(problem)) throw problem;
                }
                LockSupport.parkNanos(pause);
            }
        }

        /// Returns what to do about an error of a file, or an empty text if it says enough.
        String remedy(Throwable problem) {
            var causes = Stream.iterate(problem, Objects::nonNull, Throwable::getCause)
                    .filter(IOException.class::isInstance).map(IOException.class::cast).toList();
            if (causes.stream().anyMatch(this::mayBeInUse))
                return "close it in other programs, such as Excel, or give this user access to it and its folder";
            return causes.stream().noneMatch(AccessDeniedException.class::isInstance) ? ""
                    : "give this user access to it and its folder, or name another one";
        }

        /// Returns the folder for what belongs to a user and not to a batch.
        Path stateFolder(UnaryOperator<String> setting, String home) {
            var chosen = setting.apply("XDG_STATE_HOME");
            var local = this == WINDOWS ? setting.apply("LOCALAPPDATA") : "";
            if (chosen.isEmpty()) chosen = local.isEmpty() ? home + "/.local/state" : local;
            return Path.of(chosen, "difyexec");
        }
    }

    /// Holds the terminal at a standard stream. JLine finds it, and takes 0.2 s to load.
    record Screen(TerminalProvider provider, SystemStream stream) {
        /// Returns the terminal of standard input (0), output (1) or error (2), if it is one.
        static Optional<Screen> on(int descriptor) {
            if (!mayBeTerminal(descriptor)) return Optional.empty();
            try {
                // ffm makes native calls through Java; the start sets another
                // provider if Java does not permit them
                var provider = TerminalProvider.load(System.getProperty("org.jline.terminal.provider", "ffm"));
                var stream = SystemStream.values()[descriptor];
                return provider.isSystemStream(stream) ? Optional.of(new Screen(provider, stream)) : Optional.empty();
            } catch (IOException _) {
                return Optional.empty(); // as for a file: plain lines work everywhere
            }
        }

        /// Returns the terminal of standard output (1) or error (2), if it is one that interprets
        /// escape codes. A console of Windows does so after a program has asked for it.
        static Optional<Screen> withEscapeCodes(int descriptor) {
            return on(descriptor).filter(screen -> Platform.HERE == Platform.UNIX || screen.enableEscapeCodes());
        }

        private boolean enableEscapeCodes() {
            long console = NativeWinSysTerminal.getConsole(stream);
            var mode = new int[1];
            boolean isConsole = Kernel32.GetConsoleMode(console, mode) != 0;
            // versions of Windows without escape codes refuse this
            return isConsole && Kernel32.SetConsoleMode(console, mode[0] | ENABLE_VIRTUAL_TERMINAL_PROCESSING) != 0;
        }

        /// Returns a writer for a console of Windows, which has a code page. Everywhere else,
        /// output is UTF-8.
        static Optional<PrintWriter> writer(int descriptor, PrintStream stream) {
            if (Platform.HERE == Platform.UNIX || on(descriptor).isEmpty()) return Optional.empty();
            return Optional.of(new PrintWriter(new OutputStreamWriter(stream, stream.charset())) {
                @Override
                public void write(String text) {
                    super.write(Text.encodable(text, stream.charset()));
                }
            });
        }

        private static boolean mayBeTerminal(int descriptor) {
            try {
                return Path.of("/dev/fd/" + descriptor).toRealPath().startsWith("/dev");
            } catch (IOException _) { // a pipe on Linux has no path; Windows has no such folder
                return !Files.isDirectory(Path.of("/dev/fd"));
            }
        }

        /// Breaks a line at words for the terminal of this output, if it is one. The
        /// lines below are indented.
        static String wrap(int descriptor, String line, int indent) {
            int width = on(descriptor).map(Screen::width).orElse(Integer.MAX_VALUE) - indent - 1;
            if (line.replaceAll("\u001b\\[\\d*m", "").length() <= width) return line; // colours take no space
            return WordUtils.wrap(line, Math.max(width, 20), "\n" + " ".repeat(indent), false);
        }

        /// Returns the number of columns. Some terminals report 0, and a provider may fail.
        int width() {
            try {
                int columns = provider.systemStreamWidth(stream);
                return columns > 20 ? columns : 80;
            } catch (RuntimeException | LinkageError _) {
                return 80;
            }
        }
    }

    /// Configures Jackson. Responses and cells are a user's data, so numbers keep all their digits,
    /// and texts may have any length.
    static final class Json {
        private static final JsonFactory FACTORY = JsonFactory.builder()
                .disable(JsonFactory.Feature.INTERN_FIELD_NAMES) // outputs may have any number of names
                .recyclerPool(JsonRecyclerPools.newBoundedPool(256)) // one per virtual thread would be one per row
                // a limit for numbers, because the time to read one grows faster than its length
                .streamReadConstraints(StreamReadConstraints.builder().maxStringLength(Integer.MAX_VALUE)
                        .maxNumberLength(1_000_000).build())
                .enable(JsonReadFeature.ALLOW_NON_NUMERIC_NUMBERS) // Python writes NaN
                .build();

        /// Reads and writes values and records, with names such as `total_tokens`. A null text
        /// becomes empty. `1.50` stays `1.50`.
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
        /// Accepts only what RFC 8259 allows. A cell is sent to Dify as JSON only if
        /// Dify can read it.
        private static final ObjectReader STRICT = MAPPER.reader()
                .with(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
                .without(JsonReadFeature.ALLOW_NON_NUMERIC_NUMBERS);

        /// Writes `1E+2` as `100` where Jackson can.
        private static final ObjectWriter WRITER = MAPPER.writer().with(StreamWriteFeature.WRITE_BIGDECIMAL_AS_PLAIN);
        /// Matches half of a surrogate pair only, because a pattern takes a whole
        /// pair as one character.
        private static final Pattern LONE_SURROGATE = Pattern.compile("[\\uD800-\\uDFFF]");
        private static final String REPLACEMENT = "\uFFFD";

        /// Returns an object with its fields in this order, such as
        /// `object("count", 3, "ids", List.of("r-1"))`.
        static Map<String, Object> object(Object... namesAndValues) {
            var object = new LinkedHashMap<String, Object>();
            for (int i = 0; i < namesAndValues.length; i += 2)
                object.put((String) namesAndValues[i], namesAndValues[i + 1]);
            return object;
        }

        static String text(JsonNode from, String name) {
            return from.path(name).asText("");
        }

        static String text(Object value) {
            try {
                return WRITER.writeValueAsString(value);
            } catch (JsonProcessingException _) { // Jackson does not write an exponent beyond 9,999 as digits
                return MAPPER.valueToTree(value).toString();
            }
        }

        /// Returns JSON as UTF-8, which has no half of a surrogate pair. Java would
        /// write `?` for it.
        static byte[] bytes(Object value) {
            return wellFormed(text(value)).getBytes(UTF_8);
        }

        /// Returns a generator that accepts half of a surrogate pair, at which
        /// Jackson's own UTF-8 output fails.
        static JsonGenerator generator(OutputStream out) {
            try {
                return FACTORY.createGenerator(utf8(out));
            } catch (IOException problem) {
                throw new UncheckedIOException(problem); // cannot happen, because nothing is written yet
            }
        }

        static Writer utf8(OutputStream out) {
            return new OutputStreamWriter(out, UTF_8.newEncoder().onMalformedInput(CodingErrorAction.REPLACE)
                    .replaceWith(REPLACEMENT.getBytes(UTF_8)));
        }

        /// Reads JSON that another program wrote. Jackson refuses `1e99999999999` by
        /// an exception that is no JSON error.
        static JsonNode read(IOFunction<ObjectReader, JsonNode> reading) throws IOException {
            try {
                return reading.apply(MAPPER.reader());
            } catch (NumberFormatException _) {
                // there is no parser
                throw new JsonParseException(null, "a number has too large an exponent");
            }
        }

        /// Parses exactly one value, as strictly as RFC 8259, or returns a missing node.
        static JsonNode parse(String text) {
            return parse(text, STRICT);
        }

        static JsonNode parseLenient(String text) {
            return parse(text, MAPPER.reader());
        }

        private static JsonNode parse(String text, ObjectReader reader) {
            try {
                return read(_ -> reader.readTree(text));
            } catch (IOException _) {
                return MAPPER.missingNode();
            }
        }

        /// Returns why JSON cannot be read. Of Jackson's limits, only those of the depth and of a
        /// number's digits are in force.
        static String reason(JsonProcessingException problem) {
            return problem instanceof StreamConstraintsException ? "nested deeper than 1,000 levels, or far too long"
                    : problem.getOriginalMessage().split("[:(]")[0].strip();
        }

        /// Returns a strict parser for text that is read part by part. A key twice is an error,
        /// because one of the values would be lost.
        static JsonParser parser(Reader text) throws IOException {
            return STRICT.with(StreamReadFeature.STRICT_DUPLICATE_DETECTION).createParser(text);
        }

        /// Returns whether the value contains, at any depth, a text or a field's
        /// name that passes the test.
        static boolean hasText(JsonNode value, Predicate<String> which) {
            // loops, because streams take most of the time to read an event
            for (var field : value.properties()) if (which.test(field.getKey())) return true;
            for (var inner : value) if (hasText(inner, which)) return true;
            return value.isTextual() && which.test(value.textValue());
        }

        static String wellFormed(String text) {
            return LONE_SURROGATE.matcher(text).replaceAll(REPLACEMENT);
        }
    }

    /// Formats and reads times in UTC, to the millisecond: `2026-01-16T12:00:00.123Z`.
    static final class Times {
        private static final long STEP = 1_000_000_000; // in nanoseconds; no pause of the program is as long

        /// Returns a clock that never goes back: it adds the elapsed time to the start. If the
        /// system clock is ahead, because the computer slept, that counts from then on.
        ///
        /// @param uptime the time since the computer started, with sleep; empty if it is unknown,
        ///               as a step of the system clock then is: both count as sleep
        static InstantSource neverBack(InstantSource time, LongSupplier nanos, Supplier<Optional<Duration>> uptime) {
            var start = time.instant();
            long first = nanos.getAsLong();
            var startUptime = uptime.get();
            var lead = new AtomicLong(); // by which the system clock was ahead at most
            return () -> {
                var now = time.instant(); // first, so that a pause before the next line is no lead
                long elapsed = nanos.getAsLong() - first;
                long ahead = Duration.between(start.plusNanos(elapsed), now).toNanos();
                if (ahead > lead.get() + STEP && startUptime.isPresent()) {
                    var later = uptime.get().orElse(startUptime.get()); // if it cannot be read, the next call does
                    ahead = Math.min(ahead, later.minus(startUptime.get()).toNanos() - elapsed);
                }
                return start.plusNanos(elapsed + lead.accumulateAndGet(ahead, Math::max));
            };
        }

        /// Returns the time since the computer started, with sleep. Only Linux reports it.
        static Optional<Duration> uptime() {
            try {
                var seconds = Files.readString(Path.of("/proc/uptime")).split(" ")[0]; // such as 350735.47
                return Optional.of(Duration.ofMillis((long) (1000 * Double.parseDouble(seconds))));
            } catch (IOException _) {
                return Optional.empty(); // another system
            }
        }

        /// Formats a time for files. A whole second has no milliseconds: `2026-01-16T12:00:00Z`.
        static String text(Instant time) {
            return time.truncatedTo(ChronoUnit.MILLIS).toString();
        }

        static String local(Instant time) {
            return local("yyyy-MM-dd HH:mm:ss xxx", time);
        }

        /// Formats a time in this machine's time zone, but in no locale, because
        /// some have digits of their own.
        static String local(String pattern, Instant time) {
            return DateTimeFormatter.ofPattern(pattern, Locale.ROOT).withZone(ZoneId.systemDefault()).format(time);
        }

        /// Reads a time in ISO format, our own form digit by digit, because a long
        /// log has a million of them.
        static Instant parse(String text) {
            if (text.length() != 24 || text.charAt(10) != 'T' || text.charAt(19) != '.' || text.charAt(23) != 'Z')
                return Instant.parse(text); // from another program, or without milliseconds
            // no other ISO form has this length and these marks, so the rest of the
            // marks need no check
            long day = LocalDate.of(digits(text, 0, 4), digits(text, 5, 7), digits(text, 8, 10)).toEpochDay();
            int second = LocalTime.of(digits(text, 11, 13), digits(text, 14, 16), digits(text, 17, 19)).toSecondOfDay();
            return Instant.ofEpochSecond(day * 86_400 + second, digits(text, 20, 23) * 1_000_000L);
        }

        private static int digits(String text, int from, int to) {
            return Integer.parseInt(text, from, to, 10);
        }
    }

    /// Identifies one of the `count` parts of a batch, numbered from 1. A row stays
    /// in its part when others are added.
    record Shard(int index, int count) {
        /// Match `3/8` as typed, and the name of a file such as
        /// `results.3-of-8.jsonl`. Five digits fit into an int.
        private static final Pattern TYPED = Pattern.compile("(\\d{1,5})/(\\d{1,5})"),
                NAMED = Pattern.compile("(.+)\\.(\\d{1,5})-of-(\\d{1,5})(\\.[^.]*)?");

        static Shard parse(String text) {
            var typed = TYPED.matcher(text.strip());
            var shard = typed.matches() ? of(typed.group(1), typed.group(2)) : Optional.<Shard>empty();
            return shard.orElseThrow(() -> new Unusable("--shard " + Text.printable(text, 60)
                    + ": must be I/N, such as 3/8, with I from 1 to N"));
        }

        private static Optional<Shard> of(String index, String count) {
            var shard = new Shard(Integer.parseInt(index), Integer.parseInt(count));
            boolean exists = shard.index >= 1 && shard.index <= shard.count;
            return exists ? Optional.of(shard) : Optional.empty();
        }

        static Optional<Shard> in(Path file) {
            var name = NAMED.matcher(file.getFileName().toString());
            return name.matches() ? of(name.group(2), name.group(3)) : Optional.empty();
        }

        /// Returns the file of the whole batch: `results.jsonl` for `results.3-of-8.jsonl`.
        static Path wholeFile(Path file) {
            return file.resolveSibling(NAMED.matcher(file.getFileName().toString()).replaceFirst("$1$4"));
        }

        /// Returns `results.3-of-8.jsonl` for `results.jsonl`. Another shard's file is rejected,
        /// because it would get rows of two shards.
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

        /// Returns the shard of a row. Every machine computes the same one.
        static Shard of(String id, int count) {
            var hash = ByteBuffer.wrap(Fingerprint.sha256().digest(id.getBytes(UTF_8)));
            return new Shard((int) Long.remainderUnsigned(hash.getLong(), count) + 1, count);
        }

        @Override
        public String toString() {
            return index + "/" + count;
        }
    }

    /// Writes a CSV (RFC 4180). Quotes go around any cell that a reader could split or strip, also
    /// at delimiters that this file does not use.
    static final class CellWriter extends CSVWriter {
        CellWriter(Writer out, char delimiter) {
            // the default escape is a quote, so a quote within a cell is doubled, as
            // the RFC requires
            super(new BufferedWriter(out), delimiter, DEFAULT_QUOTE_CHARACTER, DEFAULT_ESCAPE_CHARACTER, "\r\n");
        }

        /// Writes one row. The library's simpler `writeNext` swallows exceptions,
        /// such as that of a full disk.
        void write(Collection<String> cells) throws IOException {
            boolean areAllQuoted = false; // only the cells that need quotes, see below
            writeNext(cells.toArray(String[]::new), areAllQuoted, new StringBuilder());
        }

        @Override
        protected boolean stringContainsSpecialCharacters(String cell) {
            for (int i = 0; i < cell.length(); i++)
                if ("\"\r\n,;\t".indexOf(cell.charAt(i)) >= 0 || cell.charAt(i) == separator) return true;
            return !cell.strip().equals(cell);
        }
    }

    /// Wraps file operations so that errors are not lost. After an error, `Files.exists` returns
    /// false, so a batch whose disk fails would start from scratch. Here a file is missing only if
    /// the system reports that, and every error contains its name.
    static final class Storage {

        /// Returns whether the file exists, or that is unknown, so that the next
        /// call on it reports the error.
        static boolean exists(Path path, LinkOption... links) {
            return !Files.notExists(path, links);
        }

        static BasicFileAttributes attributes(Path path, LinkOption... links) {
            return naming(path, () -> Files.readAttributes(path, BasicFileAttributes.class, links));
        }

        /// Locks a byte beyond the end of any file, or returns null if another process has. On
        /// Windows, nobody else can read locked bytes, nor this process through another channel.
        static FileLock tryLock(FileChannel file) throws IOException {
            return file.tryLock(Long.MAX_VALUE - 1, 1, false);
        }

        /// Returns the path that a text means, if the system has such names. Windows allows no `?`.
        static Optional<Path> path(String text) {
            try {
                return Optional.of(Path.of(text));
            } catch (InvalidPathException _) {
                return Optional.empty();
            }
        }

        static String stamp(Path path) {
            return exists(path) ? attributes(path).lastModifiedTime() + " " + attributes(path).size() : "none";
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

        /// Returns whether both paths lead to one file, or will when it exists.
        static boolean isSame(Path one, Path other) {
            return naming(one, () -> exists(one) && exists(other) ? Files.isSameFile(one, other)
                    : one.getFileName().equals(other.getFileName()) && Files.isSameFile(
                            one.toAbsolutePath().getParent(), other.toAbsolutePath().getParent()));
        }

        static void run(Path path, Closeable action) {
            naming(path, () -> {
                action.close();
                return path; // the result is not used
            });
        }

        /// Runs an action. An error gets the name of its file, or of the file that a temporary one
        /// becomes, unless it has another name already.
        static <T> T naming(Path path, IOSupplier<T> action) {
            try {
                return action.get();
            } catch (IOException problem) {
                var file = problem instanceof FileSystemException known ? String.valueOf(known.getFile()) : "";
                boolean isNamed = !(file + Text.reason(problem)).contains(Temporary.HIDDEN_PREFIX)
                        && (!file.isEmpty() || Text.reason(problem).contains(path.toString()));
                var named = isNamed ? problem : new IOException(path + ": " + Text.reasonAlone(problem), problem);
                throw new UncheckedIOException(Text.reason(named), named);
            }
        }
    }

    /// Holds a file under a temporary name. Its lock shows that a process uses it, so that the next
    /// start removes only what a killed process left.
    record Temporary(Path path, FileChannel channel) implements AutoCloseable {
        static final String HIDDEN_PREFIX = ".difyexec-"; // file managers and ls hide names that begin with a dot
        /// Identifies this process. A process id would not do, because another
        /// machine may write to the same folder.
        private static final String PROCESS = UUID.randomUUID().toString();
        /// Matches the two ids in the name. Only a file with a complete name of ours
        /// is ever removed.
        private static final String NAME = "([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}[-.]){2}tmp";

        /// Creates the file and locks it. Until then, another process may take it
        /// for an abandoned one and remove it. The fifth is used in any case,
        /// because some file systems never grant the lock.
        static Temporary of(Path folder, String prefix) throws IOException {
            for (int tries = 1; ; tries++) {
                var path = folder.resolve(prefix + PROCESS + "-" + UUID.randomUUID() + ".tmp");
                var created = new Temporary(path,
                        FileChannel.open(path, StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE));
                try {
                    boolean isOurs = Storage.tryLock(created.channel) != null && Storage.exists(path);
                    if (isOurs || tries == 5) return created;
                } catch (IOException problem) {
                    try (created) {
                        throw problem;
                    }
                }
                created.close();
            }
        }

        /// Removes abandoned files, except those of this process, because closing a
        /// second channel would release their locks. A process cannot lock a file
        /// twice, so only one thread does this.
        static synchronized void removeAbandoned(Path folder, String prefix) {
            for (var path : Storage.list(folder)) {
                var name = path.getFileName().toString();
                if (!name.matches(Pattern.quote(prefix) + NAME) || name.startsWith(prefix + PROCESS)
                        || !Files.isRegularFile(path, LinkOption.NOFOLLOW_LINKS)) continue;
                try (var channel = FileChannel.open(path, StandardOpenOption.WRITE)) {
                    if (Storage.tryLock(channel) != null) Files.deleteIfExists(path);
                } catch (IOException _) {
                    // another process has removed the file, or it belongs to another user
                }
            }
        }

        /// Removes the file, unless it has been renamed, and then releases its lock. In the other
        /// order, it could seem abandoned.
        @Override
        public void close() throws IOException {
            try (channel) {
                Files.deleteIfExists(path);
            }
        }
    }

    /// Java's own interfaces of this kind allow no IOException.
    interface IOConsumer<T> {
        void accept(T value) throws IOException;
    }

    interface IOSupplier<T> {
        T get() throws IOException;
    }

    interface IOFunction<T, R> {
        R apply(T value) throws IOException;
    }

    /// Writes a file that appears whole or not at all: under a temporary name in the same folder,
    /// to disk, and then renamed.
    static final class AtomicFile {
        /// A scanner needs far less, and users close a file in a moment.
        static final Duration PATIENCE = Duration.ofSeconds(10);

        /// Writes a file that a user asked for. Abandoned temporary files of a batch
        /// are removed once, when it is locked.
        static void write(Path file, IOConsumer<OutputStream> content) {
            removeAbandoned(file);
            replace(file, content);
        }

        /// Replaces a file and keeps its permissions, so that a private file does not become
        /// public. The order matters: permissions come before the content, and the content is on
        /// disk before the rename. Otherwise a power cut could leave an empty file under the name.
        static void replace(Path file, IOConsumer<OutputStream> content) {
            replace(file, PATIENCE, content);
        }

        /// @param patience how long to wait on Windows while another program has the file open
        static void replace(Path file, Duration patience, IOConsumer<OutputStream> content) {
            Storage.run(file, () -> {
                try (var temporary = Temporary.of(file.toAbsolutePath().getParent(), prefix(file))) {
                    if (Storage.exists(file) && file.getFileSystem().supportedFileAttributeViews().contains("posix"))
                        Files.setPosixFilePermissions(temporary.path(), Files.getPosixFilePermissions(file));
                    content.accept(Channels.newOutputStream(temporary.channel()));
                    force(file, temporary.channel());
                    Platform.HERE.whenFree(patience, () -> Files.move(temporary.path(), file,
                            StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING));
                }
                forceFolder(file);
            });
        }

        /// Returns how the names of temporary files for `file` begin. A long name and the ids
        /// together would exceed 255 bytes.
        static String prefix(Path file) {
            return Temporary.HIDDEN_PREFIX + "%08x-".formatted(file.getFileName().toString().hashCode());
        }

        static void removeAbandoned(Path file) {
            Temporary.removeAbandoned(file.toAbsolutePath().getParent(), prefix(file));
        }

        /// Writes the folder to disk, so that a file that was created or renamed in
        /// it survives a power cut.
        static void forceFolder(Path file) throws IOException {
            try (var channel = FileChannel.open(file.toAbsolutePath().getParent())) {
                force(file, channel);
            } catch (NotForced problem) {
                throw problem;
            } catch (IOException _) {
                // Windows cannot open a folder; the file itself is on disk
            }
        }

        /// Writes a file or folder to disk. A file system that cannot do so is no
        /// error; no batch could run there.
        static void force(Path path, FileChannel channel) throws IOException {
            try {
                channel.force(true); // with its length and times
            } catch (IOException problem) {
                if (!cannotForce(path, probe -> probe.force(true))) throw new NotForced(path, problem);
            }
        }

        /// Signals that the disk failed. The system reports a loss only once, so a
        /// second try would seem to succeed.
        static final class NotForced extends IOException {
            NotForced(Path path, IOException problem) {
                super(path + ": " + Text.reason(problem), problem);
            }
        }

        /// Returns whether the file system cannot write to disk on request, as some network mounts.
        /// It then cannot do so for a new, empty file either, which it can create and delete. After
        /// a disk has failed, one of these fails. The text of an error depends on the language.
        static boolean cannotForce(Path path, IOConsumer<FileChannel> force) {
            try (var probe = Temporary.of(path.toAbsolutePath().getParent(), prefix(path))) {
                try {
                    force.accept(probe.channel());
                    return false;
                } catch (IOException _) {
                    return true; // if it can be deleted
                }
            } catch (IOException _) {
                return false;
            }
        }
    }

    /// Identifies a row's content by a SHA-256 over its names and cells, each after
    /// its length. Otherwise a text that moves to the next cell would change
    /// nothing. The order of the columns does not matter.
    static final class Fingerprint {
        /// Returns the first eight bytes. A row is compared only with its own earlier content.
        static long of(Map<String, String> inputs) {
            var digest = sha256();
            new TreeMap<>(inputs).forEach((name, cell) -> {
                for (var text : List.of(name, cell)) {
                    var bytes = text.getBytes(UTF_8);
                    // read from index 0
                    digest.update(ByteBuffer.allocate(Integer.BYTES).putInt(0, bytes.length));
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

    /// Holds numbers by index, 0 if not set. A growing array would take its memory
    /// twice during the copy.
    static final class LongList {
        private static final int BLOCK_SIZE = 1 << 12; // numbers, or 32 KB, the most that a short list wastes

        private final List<long[]> blocks = new ArrayList<>();
        private int size = 0;

        int size() {
            return size;
        }

        long get(long place) {
            return place < size ? blocks.get((int) (place / BLOCK_SIZE))[(int) (place % BLOCK_SIZE)] : 0;
        }

        void set(int place, long number) {
            while (blocks.size() * BLOCK_SIZE <= place) blocks.add(new long[BLOCK_SIZE]);
            blocks.get(place / BLOCK_SIZE)[place % BLOCK_SIZE] = number;
            size = Math.max(size, place + 1);
        }

        void add(long number) {
            set(size, number);
        }
    }

    /// Finds the word that the user most likely meant, if one is near enough for a typing error.
    static final class Nearest {
        private static final Pattern SEPARATORS = Pattern.compile("[\\s_-]"); // people mix up Body-Text and body_text

        /// Allows one wrong letter in four, and always one. With more, a short word
        /// would resemble most others.
        static Optional<String> of(String word, List<String> words) {
            return of(word, words.stream(), Math.max(1, word.length() / 4), 1).stream().findFirst();
        }

        static String hint(String word, List<String> words) {
            return of(word, words).map(near -> "; did you mean " + Text.quoted(near) + "?").orElse("");
        }

        /// Returns the words that differ in at most `maxDistance` letters, the nearest first.
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

        /// Returns whether a column may be meant for a variable, so that the user must say.
        static boolean isClose(String column, String variable) {
            var one = plain(column);
            var other = plain(variable);
            if (one.isEmpty() || other.isEmpty()) return false; // every name begins with an empty one
            if (one.startsWith(other) || other.startsWith(one)) return true;
            return Math.min(one.length(), other.length()) >= 5 && new LevenshteinDistance(2).apply(one, other) >= 0;
        }

        /// Returns whether two names differ at most in case and separators.
        static boolean isSame(String one, String other) {
            return !plain(one).isEmpty() && plain(one).equals(plain(other));
        }

        private static String plain(String word) {
            return SEPARATORS.matcher(word.toLowerCase(Locale.ROOT)).replaceAll("");
        }
    }

    /// Formats text for people, without control characters, with bounded length, and
    /// the same in every locale.
    static final class Text {
        /// Limits errors in the log, in characters, because a server's error may be a whole page.
        static final int MAX_ERROR_LENGTH = 500;
        /// Matches control characters, marks of direction and line breaks. A response could
        /// otherwise look like text of ours.
        static final Pattern CONTROL = Pattern.compile("[\\p{Cc}\\p{Cf}\\p{Zl}\\p{Zp}]");
        /// Contains the characters of our messages that a code page of Windows may lack.
        private static final Map<String, String> SIMILAR =
                Map.of("…", "~", "×", "x", "–", "-", "’", "'", "→", ">", "·", "-", "█", "#");
        /// Matches the class name that Java puts before the message of a cause.
        private static final Pattern JAVA_NAME = Pattern.compile(
                "\\b(?:[a-z]\\w*\\.)+[A-Z]\\w*(?:Exception|Error)\\b:?\\s*");

        /// Returns a text that is safe to show, cut to `longest` characters before it is searched.
        static String printable(String text, int longest) {
            var cut = cut(text, longest);
            return Json.wellFormed(CONTROL.matcher(cut).replaceAll(" ")) + (cut.length() < text.length() ? "…" : "");
        }

        /// Replaces characters that a charset lacks by others that take as much room on a screen.
        static String encodable(String text, Charset charset) {
            var encoder = charset.newEncoder();
            if (encoder.canEncode(text)) return text;
            return text.codePoints().mapToObj(Character::toString).map(one -> encoder.canEncode(one) ? one
                    : SIMILAR.getOrDefault(one, "?")).collect(joining());
        }

        static String cutAtWord(String text, int longest) {
            if (text.length() <= longest) return text;
            int end = text.lastIndexOf(' ', longest - 1);
            return text.substring(0, Math.max(0, end)) + "…";
        }

        /// Cuts a text to `longest` characters, or one fewer so as not to cut a
        /// surrogate pair in half.
        static String cut(String text, int longest) {
            if (longest <= 0) return "";
            if (text.length() <= longest) return text;
            return text.substring(0, Character.isHighSurrogate(text.charAt(longest - 1)) ? longest - 1 : longest);
        }

        /// Matches UUIDs, durations, and words with digits, such as ids and dates. It
        /// does not match single digits, nor 400 to 599, which are usually HTTP
        /// statuses and distinguish causes.
        private static final Pattern PARTICULAR = Pattern.compile("(?<!\\w)(?:[0-9a-fA-F]{8}-[0-9a-fA-F-]{20,}"
                + "|\\d+(?:\\.\\d+)? ?(?:ms|s|min|h)\\b(?: \\d+ (?:s|min)\\b)?"
                + "|(?!(?:\\d|[45]\\d\\d)(?!\\w|[-.,:/]\\w*\\d))[A-Za-z_]*\\d\\w*(?:[-.,:/+]\\w*\\d\\w*)*)");

        /// Removes ids, times and numbers that differ from row to row, to group rows
        /// by an error. It is first cut as in the log, so that a cause is the same
        /// before and after it was logged.
        static String cause(String message) {
            return printable(PARTICULAR.matcher(printable(message, MAX_ERROR_LENGTH)).replaceAll("…"), 160);
        }

        static String id(String id) {
            return printable(id, 60);
        }

        /// Prints the first `most` items, then how many more there are.
        ///
        /// @param more the format of the last line, such as `%s causes`, which
        ///             `… and 12 more` begins
        static <T> void printFirst(List<T> all, long most, Consumer<T> show, String more, PrintWriter out) {
            all.stream().limit(most).forEach(show);
            if (all.size() > most) out.println(more.formatted("… and " + number(all.size() - most) + " more"));
        }

        /// Puts a text between two others, which an empty text does not have.
        static String around(String before, String text, String after) {
            return text.isEmpty() ? "" : before + text + after;
        }

        /// Joins the first texts, and shows with `…` that there are more: `r-1, r-2, …`.
        static String joinFirst(int most, Stream<String> all) {
            // one more shows that there are more, and the rest is not needed
            var some = all.limit(most + 1).toList();
            return some.size() > most ? String.join(", ", some.subList(0, most)) + ", …" : String.join(", ", some);
        }

        static String quoted(String text) {
            return '"' + printable(text, 60) + '"';
        }

        /// Returns why something failed, without the name of its file.
        static String reasonAlone(Throwable problem) {
            if (!(problem instanceof FileSystemException known) || known.getFile() == null) return reason(problem);
            var alone = reason(problem).replace(" -> " + known.getOtherFile(), "");
            return alone.replace(": " + known.getFile(), "").replace(known.getFile() + ": ", "");
        }

        /// Returns why something failed, in words for people. Java's own messages are only a file's
        /// name, are missing, or contain names of classes.
        static String reason(Throwable problem) {
            // it only wraps another
            if (problem instanceof UncheckedIOException known) return reason(known.getCause());
            var message = problem.getMessage();
            if (problem instanceof AccessDeniedException) return "permission denied: " + message;
            if (problem instanceof NoSuchFileException) return "no such file: " + message;
            if (problem instanceof UnknownHostException) return "unknown host";
            var plain = message == null ? "" : printable(JAVA_NAME.matcher(message).replaceAll(""), 300);
            if (!plain.isBlank()) return plain;
            if (problem.getCause() != null) return reason(problem.getCause());
            // without any message, the name of the exception is the only clue, here
            // as words: closed channel
            return problem.getClass().getSimpleName().replaceFirst("(Exception|Error)$", "")
                    .replaceAll("(?<=[a-z])(?=[A-Z])", " ").toLowerCase(Locale.ROOT);
        }

        /// Formats a duration in at most two units: `0.42 s`, `12.3 s`, `3 min 5 s`, `2 h 10 min`.
        static String seconds(Duration time) {
            long whole = time.toSeconds();
            if (whole < 60) return number(BigDecimal.valueOf(time.toMillis(), 3)
                    .setScale(whole < 10 ? 2 : 1, RoundingMode.HALF_UP)) + " s";
            if (whole < 3600) return whole / 60 + " min " + whole % 60 + " s";
            return number(whole / 3600) + " h " + whole % 3600 / 60 + " min";
        }

        static String seconds(double time) {
            return seconds(Duration.ofMillis(Math.round(1000 * time)));
        }

        /// Formats an amount of money with at most four significant digits: `0.63 USD`,
        /// `0.00035 USD`, `1,235 USD`.
        static String money(BigDecimal amount, String currency) {
            return (number(amount.round(new MathContext(4))) + " " + printable(currency, 8)).strip();
        }

        /// Groups the digits of a large number: `1,234,567`. A fraction has no zeros at its end.
        static String number(BigDecimal number) {
            var plain = number.stripTrailingZeros();
            return String.format(Locale.ROOT, "%,." + Math.max(0, plain.scale()) + "f", plain);
        }

        static String number(long number) {
            return number(BigDecimal.valueOf(number));
        }

        static String count(long count, String one) {
            return count(count, one, one + "s");
        }

        static String count(long count, String one, String many) {
            return number(count) + " " + (count == 1 ? one : many);
        }

        /// Quotes a word for the shell of this system, if it needs quotes.
        static String shell(String word) {
            return Platform.HERE.quote(word);
        }
    }

    // ── Page ─────────────────────────────────────────────────────────────────

    /// Holds the page of `status --html` and `compare --html`. It is one file that
    /// loads nothing, so that it can be sent to a colleague. Its script draws
    /// everything from JSON: a browser would need too long for the HTML of
    /// 100,000 rows, and a value that a script adds as text cannot become markup.
    static final class Html {
        /// Begins a page. Its placeholders are the hashes of style and script, the
        /// version, and the style.
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

        /// Holds the parts of both pages. The script hides those that a page does not need.
        static final String BODY = """
<body>
<header><h1 id="title"></h1><div id="about"></div></header>
<main>
<div id="overview"></div>
<section id="charts"></section>
<section class="card" id="rows">
<h2>Rows</h2>
<div class="tools">
<input id="search" type="search" autocomplete="off" placeholder="Search" aria-label="Search">
<select id="outcome" aria-label="Outcome"><option value="">all outcomes</option></select>
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
<button type="button" id="close" autofocus>Close</button>
</div>
<div id="detail-body"></div>
</dialog>
        """;

        /// Sets the look of both pages. A class that is named after an outcome only sets a hue,
        /// which chips, bars and marks then use. Lengths in `rem` grow with the reader's font.
        static final String STYLE = """
:root { color-scheme: light dark; --back: light-dark(#f6f6f4, #131518); /* as the reader's system */
  --card: light-dark(#fff, #1b1e22); --ink: light-dark(#1d2024, #e7e9ec);
  --soft: light-dark(#5c636c, #a0a8b1); --line: light-dark(#dfe1e4, #31363c);
  --accent: light-dark(#1f57b5, #86b3ff); }
.first, .only { --hue: light-dark(#3c6fc4, #7aa7f5); }
.second { --hue: light-dark(#b0561b, #e8955c); }
.succeeded, .same, .correct, ins { --hue: light-dark(#2c7a4b, #56b97f); }
.partial, .different { --hue: light-dark(#9a6200, #dca03c); }
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
#about { margin: .2rem 0 1.2rem; }
#about, small, dt, th, .ids, #count, .cut { color: var(--soft); }
dt, th, .cut { font-size: .85rem; font-weight: 500; }
h1, header, p, dd, .bar h2, dt, pre { overflow-wrap: anywhere; } /* values may be long and without spaces */
main .listed td:not(.number) { min-width: 5.5rem; overflow-wrap: anywhere; } /* short ids do not break */
td, th, pre { unicode-bidi: isolate; } /* a text from right to left does not reorder its neighbours */
dd, pre { margin: 0; }
dd.run { user-select: all; } /* a click selects the id */
.card { margin: 0 0 1rem; padding: 1rem 1.1rem; border-radius: 8px; }
.card, dialog, input, select, button { background: var(--card); border: 1px solid var(--line); }
.chip { color: var(--hue); }
.chip::before { content: ""; display: inline-block; width: .6rem; height: .6rem; margin-right: .4rem;
  border-radius: 50%; background: var(--hue); }

svg { display: block; width: 100%; }
.totals svg { height: 12px; border-radius: 3px; }
.totals ul, .tools { display: flex; flex-wrap: wrap; }
.totals ul { gap: .3rem 1.6rem; margin: .7rem 0 1rem; padding: 0; list-style: none; }
.totals dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 11rem), 1fr));
  gap: .8rem 1.5rem; margin: 0; padding-top: .9rem; border-top: 1px solid var(--line); }
.totals table { width: auto; }
.totals th.number { min-width: 5rem; }
.totals { overflow-x: auto; } /* not the page */
#charts { display: grid; gap: 0 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); }
figcaption { margin-bottom: .3rem; font-weight: 600; }
figcaption h2 { display: inline; font-size: inherit; }
figcaption .chip { margin-left: 1rem; font-weight: 400; white-space: nowrap; }
figure text { fill: var(--soft); font-size: 11px; }
.grid { stroke: var(--line); }
rect { fill: var(--hue); }

table { width: 100%; border-collapse: collapse; text-align: left; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { padding-left: 0; }
.number { text-align: right; }
button, input, select { padding: .3rem .55rem; border-radius: 6px; max-width: 100%; font: inherit;
  color: inherit; }
button { cursor: pointer; }
button:disabled { opacity: .45; }
table button { padding: 0; border: 0; background: none; text-align: inherit; } /* looks like text */
td button { overflow: hidden; color: var(--accent); text-overflow: ellipsis; vertical-align: bottom; }
.tools { gap: .5rem; align-items: center; margin-bottom: .7rem; }
#cause { width: 15rem; } /* otherwise as wide as its longest cause */

caption { position: absolute; clip-path: inset(50%); } /* for screen readers; others see the heading */
#left { display: none; } /* only paper needs it */
#table thead { position: sticky; top: 0; background: var(--card); }
#table th, #table td { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
#table th.number { min-width: 6rem; white-space: normal; }
th.number { overflow-wrap: anywhere; } /* a file's name may be long */
#table td { max-width: 16rem; }
#table td:last-child { width: 100%; max-width: 0; } /* gets the room that is left */
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
  .totals th, .totals td { padding: .35rem .6rem .35rem 0; font-size: .8rem; }
  .totals :is(th, td):last-child { padding-right: 0; }
  .tools > *, #cause { width: 100%; }
  #table th, #table td { white-space: normal; padding: .35rem .5rem .35rem 0; }
  #table td { max-width: 5.5rem; white-space: nowrap; }
  #table td:nth-child(2) { max-width: none; } /* the outcome */
  dialog dl { grid-template-columns: 1fr; }
  dialog :is(th, td) { padding: .35rem .4rem .35rem 0; font-size: .75rem; }
  dialog :is(th, td):last-child { min-width: 4rem; padding-right: 0; overflow-wrap: anywhere; }
}
@media print {
  :root { color-scheme: light; }
  * { print-color-adjust: exact; } /* browsers otherwise leave out the colors of bars and chips */
  body { max-width: none; padding: 0; background: none; font-size: 11px; }
  figure, tr { break-inside: avoid; }
  #charts { grid-template-columns: 1fr 1fr; }
  input, select, #rows .tools button, dialog, .wide, #none, #more { display: none; }
  #table td:nth-child(n) { width: auto; max-width: none; white-space: normal; overflow-wrap: anywhere; }
  #table td:nth-child(-n+2) { min-width: 7rem; } /* id and outcome */
  #left { display: block; }
}
        """;

        /// Draws both pages. The page loads nothing, so it uses no library. A value must stay text,
        /// so it uses no `innerHTML`.
        static final String SCRIPT = """
'use strict';
// rows that are drawn at a time, because a browser is slow with very many, and rows that are printed at least
const DRAWN = 200, PRINTED = 1000;
const at = id => document.getElementById(id);
const batch = JSON.parse(at('batch').textContent);
// a comparison has two sides, or checks one side against expected values, or both
const isComparison = 'comparison' in batch, isPair = isComparison && batch.sides.length === 2, isJudged = batch.judged;
const [firstName, secondName] = batch.sides ?? [];
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
  for (const head of heads.children) head.scope = 'col';
  return element('table', look, element('caption', '', caption), element('thead', '', heads),
    element('tbody', '', ...lines.map(line => row('td', line))));
}

const titled = (level, title, columns, lines) => lines.length
  ? [element(level, '', title), element('div', '', table(title, 'listed', columns, lines))] : [];

const button = (text, onclick) => Object.assign(element('button', '', text), {type: 'button', onclick});
// a word that contains a file's name has a look of its own
const classOf = name => batch.looks?.[name] ?? name;
const chip = (name, hue = classOf(name)) => element('span', 'chip ' + hue, name);
const sum = values => values.reduce((a, b) => a + b, 0);
const number = count => count.toLocaleString('en-US');
const fixed = seconds => seconds ? seconds.toFixed(2) : '';
const short = value => +value.toPrecision(3); // 0.30000000000000004 becomes 0.3
// a value is a string, or an object: {text, length} if it was cut, {json} if it was no string
const plain = value => value.text ?? value.json ?? value;
const counted = count => number(count) + (count === 1 ? ' row' : ' rows');
// most causes belong to failed rows, so only other causes have the outcome before them
const label = ({outcome, cause}) => (outcome && outcome !== 'failed' ? outcome + ': ' : '') + cause;

// Returns how much a row needs a person: most if it got worse, then if it got better, then if it has a problem.
// One that succeeded on neither side has nothing to compare.
const needs = ({outcome, trend}) => 4 * (trend === 'worse') + 2 * (trend === 'better') + !['succeeded',
  'partial', 'pending', 'same', 'neither', 'correct', 'not judged'].includes(outcome);

for (const block of document.querySelectorAll('script.rows')) {
  rows.push(...JSON.parse(block.textContent)); // a block has few enough rows for one call
  block.remove(); // its text needs much memory
}
rows.sort((a, b) => needs(b) - needs(a)); // other rows stay in the order of the CSV

// Draws counts and figures, and fills the menu of outcomes.
function totals() {
  const counts = Object.entries(batch.totals).filter(([, rows]) => rows), list = element('ul', '');
  const bar = svg('svg', {viewBox: '0 0 1000 12', preserveAspectRatio: 'none', 'aria-hidden': true});
  let x = 0;
  for (const [name, rows] of counts) {
    const width = 1000 * rows / sum(Object.values(batch.totals));
    bar.append(svg('rect', {class: classOf(name), x, width: Math.max(1, width), height: 12})); // 1: stays visible
    list.append(element('li', '', chip(name), ' ', element('b', '', number(rows)), ' ',
      element('small', '', (width / 10).toFixed(1) + ' %')));
    at('outcome').append(new Option(name, name));
    x += width;
  }
  const named = isPair ? [chip(firstName, 'first'), chip(secondName, 'second'), 'Difference'] : ['Value'];
  const heads = ['Metric', ...named.map(head => [head, 'number'])];
  const kept = cells => cells.map(cell => cell.replace(/ (?=[%s])/g, '\\u00a0')); // units stay beside their numbers
  const figures = isComparison ? table('Metrics', '', heads, batch.comparison.map(kept))
    : element('dl', '', ...Object.entries(batch.figures).map(([name, figure]) =>
      element('div', '', element('dt', '', name), element('dd', '', figure))));
  const title = batch.bar ? [element('h2', '', batch.bar)] : [];
  return element('section', 'card totals', ...title, bar, list, figures,
    ...batch.notes.map(note => element('p', '', 'Note: ' + note)));
}

// Draws what every reader of a comparison asks first: how many rows differ, and how many got better or worse.
function summary() {
  const moved = ['worse', 'better'].map(trend => [trend, rows.filter(row => row.trend === trend).length]);
  const buttons = moved.filter(([, count]) => count).map(([trend, count]) => button(counted(count) + ' got ' + trend,
    () => filter(batch.causes.findIndex(({cause}) => cause === trend))));
  return element('section', 'card', element('h2', '', batch.summary),
    ...(buttons.length ? [element('div', 'tools', ...buttons)] : []));
}

// A line of a table shows at most this much of a text. The dialog shows all of it.
const brief = text => text.length > 2000 ? text.slice(0, 2000) + '…' : text;
// what is expected in a row, and what a side has instead
const wanted = row => brief(row.expected.map(({value}) => value).join(' · '));
const found = (row, side) => [row['error_' + side], ...row.expected.map(check => check[side])]
  .filter(part => part).join(' · ');

// Returns the tags by which the rows of a comparison are filtered: outputs that differ, and trend.
const tags = ({changes, trend}) => isPair
  ? [...changes.map(({name}) => name), trend].filter(tag => tag) : [];

// Fills the menu of causes and draws the list of them. In a comparison, the menu has the tags, and there is no
// list. A menu of more than 500 entries, or a list of more than 50, helps nobody. The search finds the rest.
function causes() {
  if (isComparison) batch.causes = Object.entries(Object.groupBy(rows.flatMap(tags), tag => tag))
    .map(([cause, {length}]) => ({cause, count: length}));
  batch.causes.slice(0, 500).forEach((cause, n) =>
    at('cause').append(new Option(label(cause).slice(0, 80) + ` (${number(cause.count)})`, n)));
  at('cause').hidden = batch.causes.length === 0;
  if (isComparison) at('cause').options[0].text = at('cause').ariaLabel = 'all differences';
  if (isComparison || batch.causes.length === 0) return [];
  const lines = batch.causes.slice(0, 50).map((cause, n) => [number(cause.count),
    button(cause.cause, () => filter(n)), chip(cause.outcome),
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
  if (ends.length < 2) return; // one row is not a distribution
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

// Draws a histogram of each series.
function chart(title, series) {
  const LEFT = 40, RIGHT = 408, TOP = 14, BOTTOM = 170; // the axes, in units of the viewBox below
  const all = series.flatMap(([, values]) => values).sort((a, b) => a - b);
  // a few far larger values count in the last range; otherwise all others would be in the first one
  const tail = 4 * all[Math.ceil(all.length * .99) - 1], last = Math.min(all.at(-1), tail) || .01; // not 0
  const width = tick(last, Math.min(40, Math.max(10, 3 * Math.sqrt(all.length))));
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
    svg('svg', {viewBox: '0 0 420 192', role: 'img', 'aria-label': title}, ...grid, ...scale, ...bars));
}

// the error of the last attempt is whole, while a cause has no ids and numbers
const lastError = row => row.attempts?.at(-1)?.error;
const errors = row => [row.error_first, row.error_second].filter(error => error).join(' · ');

// Returns the last column's text, by which it is also sorted.
function result(row) {
  if (isJudged) return found(row, 'second');
  if (isPair) return errors(row) || (row.differs ?? '');
  if ('cause' in row) return lastError(row) ?? label(batch.causes[row.cause]);
  return Object.values(row.outputs).map(plain).join(' · ');
}

// Returns the last column as it is shown, in one line. For two sides, that is each difference, with a few
// characters before it.
function preview(row) {
  if (isJudged || !isPair || errors(row)) return brief(result(row));
  return row.changes.flatMap(({name, change: {before, first, second, after}}) => [element('small', '', name + ' '),
    before.length > 20 ? '…' + before.slice(-20) : before, element('del', '', brief(first)),
    element('ins', '', brief(second)), brief(after), ' ']);
}

// the table has the input with the longest texts, so that a reader recognizes the row
const lengths = {};
for (const row of rows.slice(0, 100)) for (const [name, value] of Object.entries(row.inputs ?? {}))
  if (plain(value) !== row.id) lengths[name] = (lengths[name] ?? 0) + ('' + plain(value)).length;
const input = Object.keys(lengths).sort((a, b) => lengths[b] - lengths[a])[0];
// `by` returns what a column is sorted by and, without `show`, what it shows; phones hide wide ones
const shownResult = isPair ? 'Differences' : 'Output or error';
const columns = [
  {key: 'id', title: 'Id', by: row => row.id, show: row => button(row.id)},
  {key: 'outcome', title: isPair ? 'Kind' : 'Outcome', by: row => row.outcome,
    show: row => chip(row.outcome)},
  ...(isComparison || !input ? [] : [{key: 'input', title: input, look: 'wide',
    by: row => plain(row.inputs[input] ?? ''), show: row => ('' + plain(row.inputs[input] ?? '')).slice(0, 200)}]),
  {key: 'seconds', title: isPair ? firstName + ', s' : 'Seconds', look: 'number',
    by: row => row.seconds ?? 0, show: row => fixed(row.seconds)},
  ...(isPair ? [{key: 'second', title: secondName + ', s', look: 'number',
    by: row => row.second_seconds ?? 0, show: row => fixed(row.second_seconds)}] : []),
  ...(isComparison ? [] : [
    {key: 'tokens', title: 'Tokens', look: 'number wide', by: row => row.tokens ?? ''},
    {key: 'attempts', title: 'Attempts', look: 'number wide', by: row => row.attempts.length || ''}]),
  ...(isJudged ? [{key: 'expected', title: 'Expected', by: wanted}] : []),
  {key: 'result', title: isJudged ? 'Found' : shownResult, by: result, show: preview}];

function header({key, title, look = ''}) {
  const th = element('th', look, button(title, () => sortBy(th)));
  th.scope = 'col';
  th.dataset.key = key;
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
  shown = -1; // the rows have other numbers now
  draw(DRAWN);
}

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

function line(n, place) {
  const made = element('tr', '', ...columns.map(({look = '', by, show = by}) =>
    element('td', look, ...[show(rows[n])].flat())));
  made.dataset.place = place;
  return made;
}

// numbers such as -5 begin like formulas but do no harm, and =1+cmd does; their pattern is that of `export`
const FORMULA = /^[=+@\\t\\r-]/, NUMBER = /^({NUMBER})$/;

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
  link.download = batch.file.replaceAll('.jsonl', '') + '.csv';
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

// Returns named values under a title. A click selects a whole run, because Dify finds it by its id.
const values = (title, named) => part(title, Object.entries(named).flatMap(([name, value]) => {
  if (value === undefined) return [];
  const text = value.json ? pretty(value.json) : plain(value);
  const cell = element('dd', name.endsWith('run') ? 'run' : '', element('pre', '', text));
  if (value.length && value.text) // a string has a length, too
    cell.append(element('div', 'cut', 'cut here; ' + number(value.length) + ' characters in all'));
  return [element('dt', '', name), cell];
}));

const checks = row => titled('h3', 'Expected',
  ['Output', 'Expected', ...(isPair ? batch.sides : ['Found'])],
  (row.expected ?? []).map(({output, value, first, second}) =>
    [output, value, ...(isPair ? [first] : []), second]));

// Returns the outputs that differ, side by side.
const changes = row => (row.changes ?? []).flatMap(({name, change: {before, first, second, after}}) => {
  const side = (name, hue, mark, text) => element('div', '', chip(name, hue),
    element('pre', '', before, element(mark, '', text), after));
  return [element('h3', '', name), element('div', 'both',
    side(firstName, 'first', 'del', first), side(secondName, 'second', 'ins', second))];
});

// Returns the runs of both sides, side by side.
const runs = row => titled('h3', 'Runs', ['', ...batch.sides], [
  ['run', row.run, row.second_run], ['seconds', row.seconds, row.second_seconds],
  ['error', row.error_first, row.error_second]].map(line => line.map(cell => cell ?? '')));

// Returns all attempts, in UTC, as in the log. One without an outcome may still be active, or its session was killed.
const attempts = row => titled('h3', 'Attempts', ['Start (UTC)', ['Mode', 'wide'], 'Outcome', 'Seconds', 'Error'],
  (row.attempts ?? []).map(({start, mode, outcome, seconds, error, run}) => [
    new Date(start).toISOString().replace(/[TZ]/g, ' '), mode, outcome ?? 'unfinished', fixed(seconds),
    (error ?? '') + (run ? ' (run ' + run + ')' : '')]));

// Opens the dialog for a chosen row. Its link goes into the address bar, without a new step for Back.
function show(place) {
  shown = place;
  const row = rows[chosen[place]];
  const run = isPair ? {} : {error: lastError(row) ?? row.error_second, run: row.run, seconds: row.seconds,
    tokens: row.tokens, price: row.price};
  at('detail-id').textContent = row.id;
  at('detail-body').replaceChildren(chip(row.outcome), ...checks(row), ...changes(row),
    ...values('Run', run), ...(isPair ? runs(row) : []),
    ...values(row.edited ? 'Inputs as edited in the shell' : 'Inputs', row.inputs),
    ...values('Outputs', row.outputs),
    ...attempts(row));
  at('before').disabled = place === 0;
  at('after').disabled = place === chosen.length - 1;
  history.replaceState(null, '', '#row=' + encodeURIComponent(row.id));
  if (!at('detail').open) at('detail').showModal();
  at('detail').scrollTop = 0;
}

// Opens the row of a link such as report.html#row=r-15.
function follow() {
  const id = new URLSearchParams(location.hash.slice(1)).get('row');
  const n = rows.findIndex(row => row.id === id);
  if (n >= 0) {
    filter(''); // shows all rows, because '' is no cause
    show(chosen.indexOf(n));
  } else if (id) at('count').textContent = 'There is no row ' + id;
}

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
at('detail').onkeydown = ({key}) => ({ArrowLeft: at('before'), ArrowRight: at('after')})[key]?.click();
at('detail').onclose = () => history.replaceState(null, '', '#');
onhashchange = follow;
// prints the first rows, and as many more as needed to have all rows that need a person
onbeforeprint = () =>
  draw(Math.max(0, Math.max(PRINTED, 1 + chosen.findLastIndex(n => needs(rows[n]))) - drawn));

document.title = at('title').textContent = batch.title;
at('about').append(...batch.about.map(line => element('div', '', line)));
// totals and causes first, because they fill the menus that choose() reads
at('overview').append(...(isComparison ? [summary()] : []), totals(), ...causes());
at('heads').append(...columns.map(header));
if (!isComparison) charts();
choose();
follow();
document.documentElement.dataset.ready = 'yes'; // for the tests
        """;
    }
}
