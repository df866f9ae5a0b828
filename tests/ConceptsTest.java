package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import com.sun.source.tree.*;
import com.sun.source.util.*;
import org.junit.jupiter.api.*;

import java.lang.reflect.RecordComponent;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.tree;
import static org.junit.jupiter.api.Assertions.*;

/// Lists the concepts of the tool: what a change can add, and each addition of which multiplies with the others. A change
/// that adds one shows it in `golden/concepts.txt`. No number is a limit.
final class ConceptsTest extends WholeCommand {
    /// Finds what only the source shows.
    private static final class Finder extends TreeScanner<Void, String> {
        private static final Pattern SETTING = Pattern.compile("DIFY\\w*_\\w+|\\w+_PROXY|NO_COLOR");

        final Set<String> settings = new TreeSet<>(), fields = new LinkedHashSet<>(), outcomes = new TreeSet<>(),
                releases = new LinkedHashSet<>(), shell = new LinkedHashSet<>();
        final SortedMap<String, Integer> refusals = new TreeMap<>(), stops = new TreeMap<>();
        private String type = "";

        static Finder ofTool() throws IOException {
            var source = MapTest.source();
            var finder = new Finder();
            finder.scan(MapTest.compiler(source.substring(0, source.indexOf("    // ── Page ─")) + "}").parse(), "");
            return finder;
        }

        /// Counts what a nested type contains under the type at the top.
        @Override
        public Void visitClass(ClassTree tree, String method) {
            var outer = type;
            if (outer.isEmpty() || outer.equals("DifyExec")) type = tree.getSimpleName().toString();
            super.visitClass(tree, method);
            type = outer;
            return null;
        }

        @Override
        public Void visitMethod(MethodTree tree, String method) {
            return super.visitMethod(tree, tree.getName().toString());
        }

        @Override
        public Void visitVariable(VariableTree tree, String method) {
            if (type.equals("ShellSession") && tree.getName().contentEquals("COMMANDS")) addLiterals(tree, shell);
            return super.visitVariable(tree, method);
        }

        @Override
        public Void visitLiteral(LiteralTree literal, String method) {
            if (literal.getValue() instanceof String text && SETTING.matcher(text).matches()) settings.add(text);
            return null;
        }

        @Override
        public Void visitNewClass(NewClassTree tree, String method) {
            var name = tree.getIdentifier().toString();
            var arguments = tree.getArguments();
            if (name.equals("Unusable")) refusals.merge(type, 1, Integer::sum);
            if (name.equals("Stop")) stops.merge(type + "." + method, 1, Integer::sum);
            if (name.matches("(Verdict\\.)?(Again|Close)")) addLiterals(arguments.getFirst(), outcomes);
            if (name.equals("Release")) addLiterals(arguments.getFirst(), releases);
            return super.visitNewClass(tree, method);
        }

        @Override
        public Void visitMethodInvocation(MethodInvocationTree call, String method) {
            var name = call.getMethodSelect().toString().replaceFirst("(?s).*\\.", "");
            if (name.equals("early")) stops.merge(type + "." + method, 1, Integer::sum);
            if (name.equals("logEnd")) addLiterals(call.getArguments().get(1), outcomes);
            if (type.equals("ResultLine") && method.equals("of") && name.matches("put|set|putObject|withArray"))
                addLiterals(call.getArguments().getFirst(), fields);
            return super.visitMethodInvocation(call, method);
        }

        private static void addLiterals(Tree tree, Set<String> texts) {
            new TreeScanner<Void, Void>() {
                @Override
                public Void visitLiteral(LiteralTree literal, Void nothing) {
                    if (literal.getValue() instanceof String text) texts.add(text);
                    return null;
                }
            }.scan(tree, null);
        }
    }

    /// Returns the names of a record's fields in the log.
    private static Stream<String> fields(Class<?> type) {
        return Stream.of(type.getRecordComponents()).flatMap(field -> isUnwrapped(type, field) ? fields(field.getType())
                : Stream.of(name(type, field)));
    }

    /// Annotations without their target in the component are on the field.
    private static boolean isUnwrapped(Class<?> type, RecordComponent component) {
        try {
            return type.getDeclaredField(component.getName())
                    .isAnnotationPresent(com.fasterxml.jackson.annotation.JsonUnwrapped.class);
        } catch (NoSuchFieldException missing) {
            throw new AssertionError(missing);
        }
    }

    private static String name(Class<?> type, RecordComponent component) {
        try {
            var property = type.getDeclaredField(component.getName())
                    .getAnnotation(com.fasterxml.jackson.annotation.JsonProperty.class);
            return property == null || property.value().isEmpty()
                    ? component.getName().replaceAll("(?=[A-Z])", "_").toLowerCase(Locale.ROOT) : property.value();
        } catch (NoSuchFieldException missing) {
            throw new AssertionError(missing);
        }
    }

    private static Stream<Class<?>> types(Class<?> outer) {
        return Stream.of(outer.getDeclaredClasses()).sorted(Comparator.comparing(Class::getName))
                .flatMap(type -> Stream.concat(Stream.of(type), types(type)));
    }

    private static String shortName(Class<?> type) {
        return type.getName().replaceFirst(".*DifyExec\\$", "").replace('$', '.');
    }

    /// Returns the keys of an object and of the objects in it, such as `errors.cause`.
    private static void addKeys(JsonNode json, String prefix, Set<String> keys) {
        if (json.isArray() && !json.isEmpty()) addKeys(json.get(0), prefix, keys);
        json.properties().forEach(entry -> {
            keys.add(prefix + entry.getKey());
            addKeys(entry.getValue(), prefix + entry.getKey() + ".", keys);
        });
    }

    private Set<String> keysOf(Map<String, String> settings, String... args) throws IOException {
        var keys = new LinkedHashSet<String>();
        addKeys(tree(call(settings, args).out()), "", keys);
        return keys;
    }

    private static String header(Path csv) throws IOException {
        return Files.readAllLines(csv).getFirst().replace("\ufeff", "").replace(",", " ");
    }

    private static final class Page {
        private final StringBuilder text = new StringBuilder();

        void section(String title) {
            text.append(text.isEmpty() ? "" : "\n").append("# ").append(title).append('\n');
        }

        void line(String name, Stream<?> values) {
            text.append(name).append(name.isEmpty() ? "" : ": ").append(values.map(Object::toString)
                    .collect(Collectors.joining(" "))).append('\n');
        }
    }

    private void addScripts(Page page) throws IOException {
        var simulated = new Simulated("--latency", "10ms");
        csv("id,text,answer_expected", "1,[fail] one,x", "2,two,x", "3,three,x");
        page.section("keys of --json");
        page.line("check", keysOf(Map.of(), "check", "--demo", "--json", "-i", input()).stream());
        page.line("run", keysOf(simulated.settings(), typed("run", "--json", "--allow-unmapped")).stream());
        page.line("status", keysOf(Map.of(), "status", "--json", "-i", input(), "-o", output()).stream());
        Files.copy(file("results.jsonl"), file("other.jsonl"));
        Files.copy(file("results.jsonl.log"), file("other.jsonl.log"));
        var judged = new String[] {"compare", output(), path("other.jsonl"), "-i", input(), "--expect",
                "answer_expected=/answer", "--csv", path("compare.csv"), "--json"};
        page.line("compare", keysOf(Map.of(), judged).stream());
        page.line("verify", keysOf(simulated.settings(), "verify", "--json", "-o", output()).stream());

        call(Map.of(), "export", "-i", input(), "-o", output(), path("export.csv"));
        page.section("columns");
        page.line("export", Stream.of(header(file("export.csv"))));
        page.line("compare --csv", Stream.of(header(file("compare.csv"))));
    }

    @Nested
    class TheConcepts {
        @Test
        void areListed() throws IOException {
            var page = new Page();
            var source = Finder.ofTool();
            var commands = commandLine(Given.env(Map.of())).getSubcommands();
            page.section("commands");
            page.line("difyexec", commands.keySet().stream());
            page.line("in the shell", source.shell.stream());
            page.section("options");
            var options = new TreeMap<String, List<String>>();
            commands.forEach((name, command) -> command.getCommandSpec().options().forEach(option ->
                    options.computeIfAbsent(option.longestName(), _ -> new ArrayList<>()).add(name)));
            options.forEach((option, all) -> page.line(option, all.stream()));
            page.section("settings");
            Stream.of(EnvDefaults.VARIABLES.values(), EnvDefaults.WITHOUT_OPTION).forEach(source.settings::addAll);
            page.line("", source.settings.stream());
            page.section("exit codes");
            page.line("", Stream.of(Exit.values()).map(exit -> exit.code));
            page.section("events of the log, with their fields");
            Event.TYPES.entrySet().stream().sorted(Map.Entry.comparingByKey())
                    .forEach(type -> page.line(type.getKey(), fields(type.getValue())));
            page.section("outcomes in the log");
            Stream.of(RowStatus.values()).filter(status -> !status.isSuccess() && status != RowStatus.PENDING)
                    .forEach(status -> source.outcomes.add(status.word()));
            page.line("", source.outcomes.stream());
            page.section("fields of a result");
            page.line("", source.fields.stream());
            addScripts(page);
            page.section("releases of Dify that differ");
            page.line("from", source.releases.stream());
            page.section("enums");
            types(DifyExec.class).filter(type -> type.isEnum() && type != Exit.class).forEach(type ->
                    page.line(shortName(type), Stream.of(type.getEnumConstants()).map(each -> ((Enum<?>) each).name())));
            page.section("sealed types");
            types(DifyExec.class).filter(type -> type.isSealed() && type != Event.class && !type.isEnum()).forEach(type ->
                    page.line(shortName(type), Stream.of(type.getPermittedSubclasses()).map(Class::getSimpleName)));
            page.section("reasons to stop, by method");
            source.stops.forEach((method, count) -> page.line(method, Stream.of(count)));
            page.section("refusals, by type");
            source.refusals.forEach((type, count) -> page.line(type, Stream.of(count)));

            Given.Golden.check("concepts.txt", page.text.toString());
        }
    }

    /// `docs/stability.md` promises scripts that names stay. `golden/promised.txt` only grows, at each release.
    @Nested
    class ThePromiseToScripts {
        /// Returns the words of each line of a list, by its section and name.
        private static Map<String, Set<String>> lines(String list) throws IOException {
            var lines = new LinkedHashMap<String, Set<String>>();
            var section = "";
            for (var line : Given.Golden.read(list).lines().filter(line -> !line.isEmpty()).toList()) {
                int name = line.indexOf(": ");
                if (line.startsWith("# ")) section = line.substring(2);
                else lines.put(section + ": " + line.substring(0, Math.max(0, name)),
                        new LinkedHashSet<>(List.of(line.substring(name < 0 ? 0 : name + 2).split(" "))));
            }
            return lines;
        }

        @Test
        void isKept() throws IOException {
            var present = lines("concepts.txt");

            lines("promised.txt").forEach((name, words) -> {
                words.removeAll(present.getOrDefault(name, Set.of()));
                assertEquals(Set.of(), words, name + " lost names that docs/stability.md promises");
            });
        }

        @Test
        void hasTheEventsAndFieldsOfThePage() throws IOException {
            var page = Files.readString(checkout().resolve("docs/stability.md"));
            var events = lines("promised.txt");
            events.keySet().removeIf(name -> !name.startsWith("events of the log"));

            var listed = page.split("events", 2)[1].split("the keys of all")[0].split("with their fields");
            for (int i = 0; i < 2; i++) {
                var words = Pattern.compile("`(\\w+)`").matcher(listed[i]).results().map(word -> word.group(1))
                        .collect(Collectors.toCollection(TreeSet::new));
                var promised = i == 0 ? events.keySet().stream().map(name -> name.replaceFirst(".*: ", ""))
                        : events.values().stream().flatMap(Set::stream);
                assertEquals(promised.collect(Collectors.toCollection(TreeSet::new)), words);
            }
        }
    }

    /// CONTRIBUTING lists the places that a new concept touches.
    @Nested
    class TheListOfPlaces {
        /// Holds the entries for the sections of `concepts.txt`. The compiler finds the places of the other enums.
        private static final Map<String, List<String>> ENTRIES = Map.ofEntries(
                Map.entry("commands", List.of("A command", "A command of the shell")),
                Map.entry("options", List.of("An option", "An option that a batch remembers")),
                Map.entry("settings", List.of("A setting")), Map.entry("exit codes", List.of("An exit code")),
                Map.entry("events of the log, with their fields", List.of("An event or field of the log")),
                Map.entry("outcomes in the log", List.of("An event or field of the log")),
                Map.entry("fields of a result", List.of("A field of the results")),
                Map.entry("keys of --json", List.of("A figure of `status` and the report")),
                Map.entry("columns", List.of("A column of `export`")),
                Map.entry("releases of Dify that differ", List.of("A new version of Dify")),
                Map.entry("enums", List.of("A status of a row", "A symptom", "A kind of app")),
                Map.entry("sealed types", List.of("A response, a verdict, a look-up's result, an event of the stream")),
                Map.entry("reasons to stop, by method", List.of("A reason to stop")),
                Map.entry("refusals, by type", List.of("A refusal")));

        private static String places() throws IOException {
            return Files.readString(checkout().resolve("CONTRIBUTING.md")).split("## Where to make a change\n", 2)[1]
                    .split("\n## ", 2)[0];
        }

        @Test
        void hasAnEntryForEachConcept() throws IOException {
            var places = places();
            var sections = Given.Golden.read("concepts.txt").lines().filter(line -> line.startsWith("# "))
                    .map(line -> line.substring(2)).collect(Collectors.toSet());

            assertEquals(ENTRIES.keySet(), sections);
            ENTRIES.values().forEach(entries -> entries.forEach(entry ->
                    assertTrue(places.contains("\n- **" + entry + "**: "), entry)));
        }

        private static boolean exists(String place) throws IOException {
            var parts = place.split("\\.");
            for (var type : types(DifyExec.class).toList()) {
                if (!type.getSimpleName().equals(parts[0])) continue;
                var members = Stream.of(type.getDeclaredMethods(), type.getDeclaredFields(), type.getDeclaredClasses())
                        .flatMap(Stream::of).map(member -> member instanceof Class<?> inner ? inner.getSimpleName()
                                : ((java.lang.reflect.Member) member).getName()).toList();
                if (parts.length == 1 || members.contains(parts[1])) return true;
            }
            var source = checkout().resolve("tests");
            for (var folder : List.of(source, source.resolve("support"))) {
                var file = folder.resolve(parts[0] + ".java");
                if (Files.exists(file)) return parts.length == 1 || Files.readString(file).contains(" " + parts[1]);
            }
            return parts[0].equals("DifyExec") && Stream.of(DifyExec.class.getDeclaredFields())
                    .anyMatch(field -> field.getName().equals(parts[1]));
        }

        @Test
        void hasOnlyPlacesThatExist() throws IOException {
            var unknown = new TreeSet<String>();
            for (var place : Pattern.compile("`([A-Z]\\w+(?:\\.\\w+)*)`").matcher(places()).results()
                    .map(code -> code.group(1)).toList()) if (!place.matches("[A-Z_]+") && !exists(place)) unknown.add(place);

            assertEquals(Set.of(), unknown);
        }
    }
}
